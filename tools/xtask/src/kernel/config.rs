//! A kernel configuration: which option is set to what, and the fragments that say why.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Result, bail};

/// Options and their values; `n` for one that is said not to be set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads a `.config` or a fragment, whose lines may end in `# reason`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut options = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            match Self::line(line.trim()) {
                Some(Line::Option(name, value)) => {
                    if options.insert(name.to_owned(), value).is_some() {
                        bail!("line {}: {name} is there already", index + 1);
                    }
                }
                Some(Line::Comment) => {}
                None => bail!("line {}: neither an option nor a comment: {line:?}", index + 1),
            }
        }
        Ok(Self(options))
    }

    fn line(line: &str) -> Option<Line<'_>> {
        if let Some(rest) = line.strip_prefix("# CONFIG_")
            && let Some((name, after)) = rest.split_once(" is not set")
            && is_name(name)
            && (after.trim_start().is_empty() || after.trim_start().starts_with('#'))
        {
            return Some(Line::Option(&line[2..9 + name.len()], "n".to_owned()));
        }
        if line.is_empty() || line.starts_with('#') {
            return Some(Line::Comment);
        }
        let (name, rest) = line.split_once('=')?;
        if !is_name(name.strip_prefix("CONFIG_")?) {
            return None;
        }
        // A reason stands behind the value; a string may hold the sign itself.
        let end = match rest.strip_prefix('"') {
            Some(string) => string.find('"')? + 2,
            None => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        let (value, reason) = rest.split_at(end);
        let reason = reason.trim_start();
        (!value.is_empty() && (reason.is_empty() || reason.starts_with('#')))
            .then(|| Line::Option(name, value.to_owned()))
    }

    /// What an option is set to.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets one option, or leaves it to its default.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.0.insert(name.to_owned(), value.to_owned()),
            None => self.0.remove(name),
        };
    }

    /// Takes over what `other` says.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend(other.0.clone());
    }

    /// Of what `self` asks for, what is otherwise in `resolved`: the kernel's dependencies did not allow it.
    pub fn refused_by(&self, resolved: &Self) -> Vec<String> {
        self.options()
            .filter(|(name, value)| resolved.get(name).unwrap_or("n") != *value)
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options().try_for_each(|(name, value)| match value {
            "n" => writeln!(f, "# {name} is not set"),
            value => writeln!(f, "{name}={value}"),
        })
    }
}

enum Line<'a> {
    Option(&'a str, String),
    Comment,
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn a_fragment_is_options_with_reasons() {
        let text = "# Words about the file.\n\nCONFIG_A=y   # why\n# CONFIG_B is not set # why not\n\
                    CONFIG_C=64\nCONFIG_D=\"a # b\" # a string\n# CONFIG_E is not set\n";
        let config = Config::parse(text).expect("a fragment");
        let options: Vec<_> = config.options().collect();
        let a = ("CONFIG_A", "y");
        let rest = [("CONFIG_C", "64"), ("CONFIG_D", "\"a # b\""), ("CONFIG_E", "n")];
        assert_eq!(options, [&[a, ("CONFIG_B", "n")], &rest[..]].concat());
        assert_eq!(Config::parse(&config.to_string()).expect("its own output"), config);
    }

    #[test]
    fn what_is_no_option_is_refused_by_line() {
        for (text, word) in [
            ("CONFIG_A=y\nCONFIG_B", "line 2"),
            ("FOO=y", "neither"),
            ("CONFIG_A=", "neither"),
            ("CONFIG_A=y z", "neither"),
            ("CONFIG_A=\"open", "neither"),
            ("CONFIG_=y", "neither"),
            ("CONFIG_A=y\n# CONFIG_A is not set", "already"),
        ] {
            let error = Config::parse(text).expect_err(text).to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_dependencies_do_not_allow_is_named() {
        let wanted = Config::parse("CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y").expect("one");
        let resolved = Config::parse("CONFIG_A=y\nCONFIG_C=m").expect("another");
        assert_eq!(wanted.refused_by(&resolved), ["CONFIG_C=y"]);
    }
}
