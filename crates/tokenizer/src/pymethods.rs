//! Methods of Python's strings that `minijinja-contrib` does not have and templates call.

use minijinja::value::{Tuple, Value, from_args};
use minijinja::{Error, ErrorKind};

/// No template pads to four digits; a wider field is one that wants memory.
const WIDTH_MAX: usize = 999;

/// What the method gives, if it is one of these.
pub(crate) fn string_method(
    text: &str,
    name: &str,
    args: &[Value],
) -> Option<Result<Value, Error>> {
    Some(match name {
        "removeprefix" => cut(args, |prefix| text.strip_prefix(prefix).unwrap_or(text)),
        "removesuffix" => cut(args, |suffix| text.strip_suffix(suffix).unwrap_or(text)),
        "partition" => parted(args, text, |separator| text.split_once(separator), true),
        "rpartition" => parted(args, text, |separator| text.rsplit_once(separator), false),
        "rsplit" => rsplit(text, args),
        "index" => found(args, |part| text.find(part), text),
        "rindex" => found(args, |part| text.rfind(part), text),
        "swapcase" => nothing(args, || text.chars().flat_map(swapped).collect()),
        "casefold" => nothing(args, || text.to_lowercase()),
        "zfill" => zfill(text, args),
        "ljust" => padded(text, args, |_| 0),
        "rjust" => padded(text, args, |missing| missing),
        // The odd one is left where text and width differ in being odd, as CPython has it.
        "center" => padded(text, args, |missing| {
            let width = missing + text.chars().count();
            missing / 2 + (missing & width & 1)
        }),
        _ => return None,
    })
}

fn cut<'t>(args: &[Value], cut: impl FnOnce(&str) -> &'t str) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    Ok(Value::from(cut(part)))
}

fn nothing(args: &[Value], text: impl FnOnce() -> String) -> Result<Value, Error> {
    let () = from_args(args)?;
    Ok(Value::from(text()))
}

/// What is before the separator, the separator, what is behind it; where it is not, the text at one end.
fn parted<'t>(
    args: &[Value],
    text: &'t str,
    split: impl FnOnce(&str) -> Option<(&'t str, &'t str)>,
    text_first: bool,
) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let parts = match (split(separator), text_first) {
        (Some((before, behind)), _) => [before, separator, behind],
        (None, true) => [text, "", ""],
        (None, false) => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

fn found(
    args: &[Value],
    find: impl FnOnce(&str) -> Option<usize>,
    text: &str,
) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    let at =
        find(part).ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
    Ok(Value::from(text[..at].chars().count()))
}

/// From the end, at most so many times.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    if separator == Some("") {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let mut parts = Vec::new();
    let mut rest = if separator.is_none() { text.trim_end() } else { text };
    while parts.len() < most {
        let split = match separator {
            Some(separator) => rest.rsplit_once(separator),
            None => rest.rsplit_once(char::is_whitespace),
        };
        let Some((before, part)) = split else { break };
        parts.push(part);
        rest = if separator.is_none() { before.trim_end() } else { before };
    }
    // White space around words makes no empty word.
    if separator.is_some() || !rest.is_empty() {
        parts.push(rest);
    }
    Ok(parts.into_iter().rev().filter(|part| separator.is_some() || !part.is_empty()).collect())
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

fn width(width: i64) -> Result<usize, Error> {
    match usize::try_from(width).unwrap_or(0) {
        width if width > WIDTH_MAX => {
            Err(Error::new(ErrorKind::InvalidOperation, "a template asks for too wide a field"))
        }
        width => Ok(width),
    }
}

fn zfill(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (wide,): (i64,) = from_args(args)?;
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    let missing = width(wide)?.saturating_sub(text.chars().count());
    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(missing))))
}

/// With as many of the fill characters before the text as `before` says of those that are missing.
fn padded(text: &str, args: &[Value], before: impl FnOnce(usize) -> usize) -> Result<Value, Error> {
    let (wide, fill): (i64, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        let why = "the fill character must be exactly one character long";
        return Err(Error::new(ErrorKind::InvalidOperation, why));
    }
    let missing = width(wide)?.saturating_sub(text.chars().count());
    let left = before(missing);
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

#[cfg(test)]
mod tests {
    use crate::jinja::environment;

    /// Expectations are what CPython 3.11 prints.
    #[test]
    fn methods_are_pythons() {
        let cases = [
            ("'abc'.removeprefix('ab')", "c"),
            ("'abc'.removeprefix('x')", "abc"),
            ("'abc'.removesuffix('bc')", "a"),
            ("'a=b=c'.partition('=')", "('a', '=', 'b=c')"),
            ("'a=b=c'.rpartition('=')", "('a=b', '=', 'c')"),
            ("'abc'.partition('=')", "('abc', '', '')"),
            ("'abc'.rpartition('=')", "('', '', 'abc')"),
            ("'a b  c'.rsplit()", "['a', 'b', 'c']"),
            ("'a b  c'.rsplit(none, 1)", "['a b', 'c']"),
            ("'  a b  '.rsplit(none, 1)", "['  a', 'b']"),
            ("'  '.rsplit()", "[]"),
            ("'  a '.rsplit()", "['a']"),
            ("'a,b,,c'.rsplit(',')", "['a', 'b', '', 'c']"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("''.rsplit(',')", "['']"),
            ("'äbc'.index('c')", "2"),
            ("'abcb'.rindex('b')", "3"),
            ("'aBc'.swapcase()", "AbC"),
            ("'7'.zfill(3)", "007"),
            ("'-7'.zfill(4)", "-007"),
            ("'abc'.zfill(2)", "abc"),
            ("'ab'.ljust(4) ~ '|'", "ab  |"),
            ("'ab'.rjust(4, '.')", "..ab"),
            ("'ab'.center(5, '.')", "..ab."),
            ("'abc'.center(6, '.')", ".abc.."),
            ("'ab'.center(1)", "ab"),
            ("(1,)", "(1,)"),
            ("(1, 2)", "(1, 2)"),
        ];
        let env = environment();
        for (expression, expect) in cases {
            let got = env.render_str(&format!("{{{{ {expression} }}}}"), ()).unwrap();
            assert_eq!(got, expect, "{expression}");
        }
        for wrong in ["'a'.index('b')", "'a'.rsplit('')", "'a'.ljust(1000)", "'a'.ljust(3, '')"] {
            assert!(env.render_str(&format!("{{{{ {wrong} }}}}"), ()).is_err(), "{wrong}");
        }
    }
}
