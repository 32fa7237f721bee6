//! Reads variables one by one, and collects what is wrong with them, so that all of it is told at once. Knows no variable
//! by name.

use std::collections::BTreeMap;
use std::fmt;

use super::settings::{Default, Setting};

/// Everything that is wrong with the settings. `Display` is the message for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<(&'static str, String)>,
}

impl ConfigError {
    /// Pairs of a variable's name and what goes on after it.
    pub(super) const fn new(problems: Vec<(&'static str, String)>) -> Self {
        Self { problems }
    }

    /// The names of the variables that are wrong.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.problems.iter().map(|(name, _)| *name)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrong settings:")?;
        for (name, problem) in &self.problems {
            write!(f, "\n  {name} {problem}")?;
        }
        f.write_str("\n`gateway --help` lists every setting.")
    }
}

impl std::error::Error for ConfigError {}

/// Takes values out of a map by the table's rules.
pub(super) struct Reader<'a> {
    values: &'a BTreeMap<String, String>,
    problems: Vec<(&'static str, String)>,
    #[cfg(test)]
    pub(super) read: std::collections::BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(values: &'a BTreeMap<String, String>) -> Self {
        Self {
            values,
            problems: Vec::new(),
            #[cfg(test)]
            read: std::collections::BTreeSet::new(),
        }
    }

    /// The value of a variable that has a default. A wrong one is noted, and the default stands in for it until
    /// `finish` refuses the whole.
    pub(super) fn get<T>(
        &mut self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let default = match setting.default {
            Default::Is(text) | Default::IsUnlessEmpty(text) => text,
            Default::None(_) => "",
        };
        self.find(setting, &parse).unwrap_or_else(|| {
            parse(default)
                .unwrap_or_else(|problem| unreachable!("the default of {} {problem}", setting.name))
        })
    }

    /// The value of a variable, where it is set and right. A wrong one is noted.
    pub(super) fn find<T>(
        &mut self,
        setting: &'static Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        #[cfg(test)]
        self.read.insert(setting.name);
        let value = self.values.get(setting.name)?.trim();
        if value.is_empty() && !matches!(setting.default, Default::IsUnlessEmpty(_)) {
            return None;
        }
        match parse(value) {
            Ok(parsed) => Some(parsed),
            Err(problem) if setting.secret => {
                self.complain(setting, problem);
                None
            }
            Err(problem) => {
                self.complain(setting, format!("{problem}, not {value:?}"));
                None
            }
        }
    }

    /// Notes that a variable is wrong: `problem` goes on after its name.
    pub(super) fn complain(&mut self, setting: &'static Setting, problem: impl Into<String>) {
        self.problems.push((setting.name, problem.into()));
    }

    pub(super) fn finish<T>(self, config: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::new(self.problems))
        }
    }
}

/// A whole number from `least` to `most`.
pub(super) fn number<T>(least: T, most: T) -> impl Fn(&str) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    move |text| {
        text.parse()
            .ok()
            .filter(|value| (&least..=&most).contains(&value))
            .ok_or_else(|| format!("must be a whole number from {least} to {most}"))
    }
}

/// The non-empty parts of a comma-separated list.
pub(super) fn list<T>(
    part: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Vec<T>, String> {
    move |text| {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(&part)
            .collect()
    }
}
