//! Connection strings of the form `keyword = value …`, with libpq's rules for quotes and backslashes.

use super::error::ConninfoError;
use super::parameters::is_blank;

/// One `keyword = value` as written, unescaped.
#[derive(PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) keyword: String,
    pub(super) value: String,
    /// Which character of the text the keyword begins at, from 1.
    pub(super) position: usize,
}

/// Writes a value so that parsing gives it back.
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// Takes the text apart.
///
/// Errors name positions, never text: a password with an unquoted blank would otherwise be shown in part.
pub(super) fn parse(text: &str) -> Result<Vec<Pair>, ConninfoError> {
    let mut reader = Reader { rest: text, position: 1 };
    let mut pairs = Vec::new();
    loop {
        reader.skip_blanks();
        if reader.rest.is_empty() {
            return Ok(pairs);
        }
        let position = reader.position;
        let keyword = reader.take_until(|character| character == '=' || is_blank(character)).to_owned();
        reader.skip_blanks();
        if reader.next() != Some('=') {
            let hint = "a value that contains blanks is written in single quotes";
            return Err(ConninfoError::Syntax(format!("no '=' follows the word at character {position}; {hint}")));
        }
        reader.skip_blanks();
        let value = if reader.peek() == Some('\'') { reader.quoted()? } else { reader.bare() };
        pairs.push(Pair { keyword, value, position });
    }
}

struct Reader<'a> {
    rest: &'a str,
    position: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.rest = &self.rest[character.len_utf8()..];
        self.position += 1;
        Some(character)
    }

    fn take_until(&mut self, stop: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(stop).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.position += taken.chars().count();
        taken
    }

    fn skip_blanks(&mut self) {
        self.take_until(|character| !is_blank(character));
    }

    /// A value without quotes ends at a blank. A backslash at the very end stands for nothing.
    fn bare(&mut self) -> String {
        let mut value = String::new();
        while let Some(character) = self.next() {
            match character {
                '\\' => value.extend(self.next()),
                character if is_blank(character) => break,
                character => value.push(character),
            }
        }
        value
    }

    fn quoted(&mut self) -> Result<String, ConninfoError> {
        let position = self.position;
        self.next();
        let mut value = String::new();
        loop {
            match self.next() {
                None => {
                    let what = format!("the quote that opens at character {position} is never closed");
                    return Err(ConninfoError::Syntax(what));
                }
                Some('\'') => return Ok(value),
                Some('\\') => value.extend(self.next()),
                Some(character) => value.push(character),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().map(|pair| (pair.keyword, pair.value)).collect()
    }

    #[test]
    fn reads_what_libpq_reads() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            (" \t\r\n\u{b}\u{c}", &[]),
            ("host=a", &[("host", "a")]),
            ("  host = a  port\n=\t1 ", &[("host", "a"), ("port", "1")]),
            ("host=", &[("host", "")]),
            ("host='' port=1", &[("host", ""), ("port", "1")]),
            ("host='a b' port='1'", &[("host", "a b"), ("port", "1")]),
            // Nothing has to stand between a closing quote and the next word.
            ("host='a'port=1", &[("host", "a"), ("port", "1")]),
            (r"password='it\'s \\ here' user=a\ b\\c\'", &[("password", r"it's \ here"), ("user", r"a b\c'")]),
            // A quote inside an unquoted value is a character like any other.
            ("user=o'brien", &[("user", "o'brien")]),
            // The value of `user` is the next word, even if that looks like a pair.
            ("user= password=x", &[("user", "password=x")]),
            ("options=-c\\ a=b", &[("options", "-c a=b")]),
            ("user=x\\", &[("user", "x")]),
            ("=x", &[("", "x")]),
            ("USER=x", &[("USER", "x")]),
            ("user=jürgen dbname='日 本'", &[("user", "jürgen"), ("dbname", "日 本")]),
            // No-break space is no blank.
            ("user=a\u{a0}b", &[("user", "a\u{a0}b")]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn names_the_place_and_not_the_text() {
        let error = |text: &str| parse(text).map(drop).unwrap_err().to_string();
        let text = error("password=open sesame");
        assert!(text.contains("character 15"), "{text}");
        assert!(!text.contains("sesame"), "{text}");
        let text = error("user=ä password='open sesame");
        assert!(text.contains("character 17"), "{text}");
        assert!(!text.contains("sesame"), "{text}");
        for text in ["host", "host a=b", "host='a\\'", "'"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn quoting_is_undone_by_parsing(values in prop::collection::vec(any::<String>(), 0..5), blank in "[ \t\n]*") {
            let text: String = values.iter().map(|value| format!("k{blank}={blank}{}{blank}", quote(value))).collect();
            let found: Vec<String> = parsed(&text).into_iter().map(|(_, value)| value).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>(), special in r"[ a='\\\t]*") {
            let _ = parse(&text);
            let _ = parse(&special);
        }
    }
}
