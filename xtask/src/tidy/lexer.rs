//! Splits Rust source into code and comments, line structure kept.
//!
//! Not a parser: it knows comments, strings, characters and lifetimes, which is what it takes to
//! count braces and to look for words without being fooled by text.

/// Source with the same lines twice: once only code, once only comments. What is left out is blank.
pub struct Split {
    /// Code; comments and the insides of strings and characters are blanks.
    pub code: String,
    /// Comments; everything else is blanks.
    pub comments: String,
}

/// Splits `source`.
pub fn split(source: &str) -> Split {
    let chars: Vec<char> = source.chars().collect();
    let mut lexer = Lexer { chars: &chars, at: 0, code: String::new(), comments: String::new() };
    while lexer.at < chars.len() {
        lexer.step();
    }
    Split { code: lexer.code, comments: lexer.comments }
}

struct Lexer<'a> {
    chars: &'a [char],
    at: usize,
    code: String,
    comments: String,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    /// Takes `count` characters as code, as a comment, or (neither) as blanks.
    fn take(&mut self, count: usize, as_code: bool, as_comment: bool) {
        for _ in 0..count {
            let Some(&c) = self.chars.get(self.at) else { return };
            self.at += 1;
            let keep = |yes: bool| if yes || c == '\n' { c } else { ' ' };
            self.code.push(keep(as_code));
            self.comments.push(keep(as_comment));
        }
    }

    fn step(&mut self) {
        let before = self.at.checked_sub(1).map_or(' ', |i| self.chars[i]);
        let starts_word = !(before.is_alphanumeric() || before == '_');
        match (self.peek(0), self.peek(1)) {
            ('/', '/') => {
                while self.at < self.chars.len() && self.peek(0) != '\n' {
                    self.take(1, false, true);
                }
            }
            ('/', '*') => self.block_comment(),
            ('"', _) => self.string(),
            ('r' | 'b' | 'c', _) if starts_word && self.raw_string() => {}
            ('\'', _) => self.quote(),
            _ => self.take(1, true, false),
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0;
        while self.at < self.chars.len() {
            match (self.peek(0), self.peek(1)) {
                ('/', '*') => {
                    depth += 1;
                    self.take(2, false, true);
                }
                ('*', '/') => {
                    depth -= 1;
                    self.take(2, false, true);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.take(1, false, true),
            }
        }
    }

    fn string(&mut self) {
        self.take(1, true, false);
        while self.at < self.chars.len() {
            match self.peek(0) {
                '\\' => self.take(2, false, false),
                '"' => return self.take(1, true, false),
                _ => self.take(1, false, false),
            }
        }
    }

    /// `r"..."`, `br#"..."#` and kin; false, nothing taken, if that is not what stands here.
    fn raw_string(&mut self) -> bool {
        let mut ahead = usize::from(matches!(self.peek(0), 'b' | 'c'));
        if self.peek(ahead) != 'r' {
            return false;
        }
        ahead += 1;
        let hashes = (0..).take_while(|i| self.peek(ahead + i) == '#').count();
        if self.peek(ahead + hashes) != '"' {
            return false;
        }
        self.take(ahead + hashes + 1, true, false);
        while self.at < self.chars.len() {
            if self.peek(0) == '"' && (1..=hashes).all(|i| self.peek(i) == '#') {
                self.take(1 + hashes, true, false);
                break;
            }
            self.take(1, false, false);
        }
        true
    }

    /// A character literal, or a lifetime, of which only the quote is taken.
    fn quote(&mut self) {
        if self.peek(1) == '\\' {
            self.take(1, true, false);
            self.take(2, false, false);
            while self.at < self.chars.len() && self.peek(0) != '\'' {
                self.take(1, false, false);
            }
            self.take(1, true, false);
        } else if self.peek(2) == '\'' {
            self.take(1, true, false);
            self.take(1, false, false);
            self.take(1, true, false);
        } else {
            self.take(1, true, false);
        }
    }
}

/// Identifiers and keywords of `code` with the byte at which each starts.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |i| start + i);
        at = end;
        Some((start, &code[start..end]))
    })
}

/// The line, from 1, of a byte.
pub fn line_of(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte].iter().filter(|&&b| b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        split(source).code
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let squeezed = |source: &str| code(source).replace(' ', "");
        assert_eq!(code("a // {\nb"), "a     \nb");
        assert_eq!(squeezed("a /* { /* { */ { */ b"), "ab");
        assert_eq!(squeezed(r#"f("} \" {") }"#), r#"f("")}"#);
        assert_eq!(squeezed("r#\"{ \" {\"# }"), "r#\"\"#}");
        assert_eq!(squeezed("b\"{\" '{' '\\'' '\\u{7b}' x"), "b\"\"''''''x");
    }

    #[test]
    fn lifetimes_open_nothing() {
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
    }

    #[test]
    fn comments_keep_their_lines() {
        let source = "a\n// unsafe\nb\n";
        assert_eq!(split(source).comments, " \n// unsafe\n \n");
    }

    #[test]
    fn words_are_identifiers() {
        let found: Vec<_> = words("fn a_1(é: u8)").collect();
        assert_eq!(found, [(0, "fn"), (3, "a_1"), (7, "é"), (11, "u8")]);
    }
}
