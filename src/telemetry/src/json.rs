//! A writer of JSON (RFC 8259), just large enough for the statistics.

use std::fmt::Write;

/// JSON under construction. Values are written in the order of the calls; the caller closes what it opens.
///
/// `key` is the name of a value that is a member of an object; `None` for an element of an array, or the whole.
#[derive(Default)]
pub struct Json {
    text: String,
}

impl Json {
    /// Begins an object.
    pub fn open(&mut self, key: Option<&str>) {
        self.key(key);
        self.text.push('{');
    }

    /// Ends the innermost object.
    pub fn close(&mut self) {
        self.text.push('}');
    }

    /// Begins an array.
    pub fn open_array(&mut self, key: Option<&str>) {
        self.key(key);
        self.text.push('[');
    }

    /// Ends the innermost array.
    pub fn close_array(&mut self) {
        self.text.push(']');
    }

    /// A string.
    pub fn string(&mut self, key: Option<&str>, value: &str) {
        self.key(key);
        self.quote(value);
    }

    /// A whole number.
    pub fn number(&mut self, key: Option<&str>, value: u64) {
        self.key(key);
        let _ = write!(self.text, "{value}");
    }

    /// True or false.
    pub fn boolean(&mut self, key: Option<&str>, value: bool) {
        self.key(key);
        self.text.push_str(if value { "true" } else { "false" });
    }

    /// The finished text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }

    fn key(&mut self, key: Option<&str>) {
        if !matches!(self.text.as_bytes().last(), None | Some(b'{' | b'[')) {
            self.text.push(',');
        }
        if let Some(key) = key {
            self.quote(key);
            self.text.push(':');
        }
    }

    fn quote(&mut self, value: &str) {
        self.text.push('"');
        for c in value.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\t' => self.text.push_str("\\t"),
                c if c < ' ' => {
                    let _ = write!(self.text, "\\u{:04x}", u32::from(c));
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_elements_and_nesting_are_separated_by_commas() {
        let mut j = Json::default();
        j.open(None);
        j.open(Some("empty"));
        j.close();
        j.open_array(Some("list"));
        j.string(None, "a{");
        j.string(None, "b[");
        j.open(None);
        j.number(Some("n"), u64::MAX);
        j.boolean(Some("t"), true);
        j.close();
        j.close_array();
        j.string(Some("s"), "x");
        j.close();
        assert_eq!(j.finish(), r#"{"empty":{},"list":["a{","b[",{"n":18446744073709551615,"t":true}],"s":"x"}"#);
    }

    #[test]
    fn strings_are_escaped() {
        let mut j = Json::default();
        j.string(None, "\"\\\n\t\u{1}é");
        assert_eq!(j.finish(), r#""\"\\\n\t\u0001é""#);
    }
}
