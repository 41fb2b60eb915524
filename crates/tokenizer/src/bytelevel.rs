//! GPT-2's byte alphabet: every byte is written as one printable character, so that byte-level
//! vocabularies can be stored as text. Bytes that are printable in Latin-1 stand for themselves, the others
//! for U+0100 onwards in order (openai/gpt-2, `encoder.py`, `bytes_to_unicode`).

const fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

/// Bytes by `code point - 0x100`.
const SHIFTED: [u8; 68] = {
    let mut table = [0; 68];
    let mut next = 0;
    let mut byte = 0;
    while byte < 256 {
        if !stands_for_itself(byte as u8) {
            table[next] = byte as u8;
            next += 1;
        }
        byte += 1;
    }
    assert!(next == table.len());
    table
};

fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        cp @ 0..=0xff => Some(cp as u8).filter(|&byte| stands_for_itself(byte)),
        cp => SHIFTED.get((cp - 0x100) as usize).copied(),
    }
}

/// Appends the bytes that `text` stands for, and says whether it stands for any. If it does not (it holds
/// other characters, or is not UTF-8), `out` is as it was.
pub(crate) fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let before = out.len();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        // Two bytes of UTF-8 reach U+07FF, beyond the alphabet's end.
        let (byte, after) = match (first, after) {
            (0x21..=0x7e, _) => (Some(first), after),
            (0xc2..=0xc5, [second @ 0x80..=0xbf, after @ ..]) => {
                let cp = u32::from(first & 0x1f) << 6 | u32::from(second & 0x3f);
                (char::from_u32(cp).and_then(byte_of), after)
            }
            _ => (None, after),
        };
        let Some(byte) = byte else {
            out.truncate(before);
            return false;
        };
        out.push(byte);
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(text: &str) -> Option<Vec<u8>> {
        let mut out = vec![1];
        let known = decode(text.as_bytes(), &mut out);
        assert_eq!(out.remove(0), 1);
        assert!(known || out.is_empty());
        known.then_some(out)
    }

    #[test]
    fn known_letters_of_the_alphabet() {
        assert_eq!(decoded("ĠHello!").unwrap(), b" Hello!");
        assert_eq!(decoded("Ċĉčÿ").unwrap(), b"\n\t\r\xff");
        assert_eq!(decoded("Ń").unwrap(), [0xad]);
        assert_eq!(decoded("").unwrap(), b"");
        for foreign in [" ", "a b", "\u{a0}", "\u{ad}", "Ņ", "▁", "<｜x｜>", "\u{7f}"] {
            assert_eq!(decoded(foreign), None, "{foreign:?}");
        }
        assert!(!decode(b"\xc4", &mut Vec::new()));
        assert!(!decode(b"\xff", &mut Vec::new()));
    }

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> =
            (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }
}
