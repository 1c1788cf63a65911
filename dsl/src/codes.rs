//! The stable codes of diagnostics. Each has a page: what it means, why it is so, what to write.

use std::fmt;

use serde::{Serialize, Serializer};

/// How serious a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// No plan is made.
    Error,
    /// A plan is made, but something is probably not meant.
    Warning,
    /// Good to know; said where somebody asks for details.
    Note,
}

macro_rules! codes {
    ($($name:ident $doc:literal)*) => {
        /// A stable code. Codes are never reused for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $doc] $name,)*
        }

        const ALL: &[(Code, &str, &str, &str)] = &[
            $((Code::$name, stringify!($name), $doc, include_str!(concat!("codes/", stringify!($name), ".md"))),)*
        ];
    };
}

codes! {
    E0001 "unexpected text"
    E0002 "an unterminated text"
    E0003 "an unclosed bracket"
    E0004 "an unknown escape in a text"
    E0005 "an invalid number or unit"
    E0006 "brackets nested too deep"
    E0007 "a stage without a type"
    E0101 "an unknown name"
    E0102 "a name that is declared twice"
    E0103 "an unknown stage kind"
    E0104 "an unknown argument"
    E0105 "an argument or setting that is given twice"
    E0106 "a missing argument"
    E0107 "an argument without its name"
    E0108 "an unknown field"
    E0109 "an unknown key"
    E0110 "an unknown setting"
    E0111 "an unknown word"
    E0112 "an unknown type"
    E0201 "a value of the wrong type"
    E0202 "a stated type that the kind does not make"
    E0203 "a value that may be absent"
    E0204 "an `or` whose left side is always there"
    E0205 "a loop over a value that is not a list"
    E0206 "a `when` that is neither true nor false"
    E0207 "values that cannot be compared"
    E0208 "a list of different types"
    E0209 "a mix that is not weights times pLLMs"
    E0210 "a mix over different bases"
    E0211 "a kind under the wrong keyword"
    E0212 "something other than a stage kind, or a stage inside another"
    E0213 "a key on a value that is not a list"
    E0214 "a condition that is not a metric compared with a number"
    E0215 "an `or` between different types"
    E0216 "a clause or setting where it has no meaning"
    E0217 "a setting of the wrong form"
    E0218 "`/` on a value that is not a path"
    E0219 "a count of less than 1"
    E0220 "an argument that has no effect"
    E0221 "a group of two sizes"
    E0301 "two elements with the same key"
    E0302 "a fan-out that is too large"
    E0401 "a cycle"
    E0402 "a cycle of imports"
    E0403 "a file that cannot be read"
    E0404 "an address where a path is needed"
    E0405 "a path that is written as a template"
    E0501 "a private value used off its device"
    E0502 "a private output without `release`"
    E0503 "a value that can never be released"
    E0504 "`release` outside of an output"
    E0505 "private values of two devices combined"
    E0506 "a private dataset without its device"
    E0507 "`private` on an item that is not a dataset"
    E0508 "a kind that cannot run in this place"
    E0509 "`glob` over a device's files"
    E0510 "a metric that its stage does not declare"
    E0601 "an invalid cron expression"
    E0602 "an unknown time zone"
    E0603 "a schedule without a required entry"
    E0701 "a parameter without a value"
    E0702 "a value for an unknown parameter"
    E0703 "an invalid value for a parameter"
    E0704 "a parameter of a type that cannot be set"
    E0705 "a default that is not constant"
    E0801 "a program that cannot be used"
    E0802 "a program without its declaration"
    E0803 "an invalid declaration"
    E0804 "an unknown stage of a program"
    E0805 "a declaration with an unknown type"
    W0001 "an unused item"
    W0002 "an unused parameter"
    W0003 "an unused import"
    W0004 "a pattern that matches nothing"
    W0005 "a `release` without effect"
    W0006 "documentation without an item"
    W0007 "an unused program"
    N0001 "files that a pattern leaves out"
}

impl Code {
    /// As people write it: `E0101`.
    pub fn as_str(self) -> &'static str {
        ALL[self as usize].1
    }

    /// What it stands for, as a noun phrase.
    pub fn title(self) -> &'static str {
        ALL[self as usize].2
    }

    /// Errors start with `E`, warnings with `W`, notes with `N`.
    pub fn severity(self) -> Severity {
        match self.as_str().as_bytes()[0] {
            b'W' => Severity::Warning,
            b'N' => Severity::Note,
            _ => Severity::Error,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

/// Every code, ascending.
pub fn codes() -> impl Iterator<Item = Code> {
    ALL.iter().map(|(code, ..)| *code)
}

/// The page of a code, in Markdown. Case does not matter.
pub fn explain(code: &str) -> Option<&'static str> {
    ALL.iter().find(|(_, name, ..)| name.eq_ignore_ascii_case(code.trim())).map(|(.., page)| *page)
}

/// The code that is probably meant by a text that is none: without its zeros, or nearly right.
pub fn similar_code(text: &str) -> Option<Code> {
    let text = text.trim().to_ascii_uppercase().replace('O', "0");
    let padded = match text.char_indices().nth(1) {
        Some((at, _)) if text.len() < 5 => format!("{}{:0>4}", &text[..at], &text[at..]),
        _ => text,
    };
    let exact = codes().find(|c| c.as_str() == padded);
    exact.or_else(|| codes().find(|c| strsim::damerau_levenshtein(c.as_str(), &padded) == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_are_nearly_right() {
        assert_eq!(similar_code("e101"), Some(Code::E0101));
        assert_eq!(similar_code("EO101"), Some(Code::E0101));
        assert_eq!(similar_code("w3"), Some(Code::W0003));
        assert_eq!(similar_code("E01O2"), Some(Code::E0102));
        assert_eq!(similar_code("0101"), Some(Code::E0101));
        assert_eq!(similar_code("é"), None);
        assert_eq!(similar_code(""), None);
    }
}
