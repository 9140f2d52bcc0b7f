//! Reads the document key by key and notes every complaint instead of stopping at the first. Pure.

use std::{
    cell::RefCell,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Environment,
    diagnostic::Diagnostic,
    schema::{ALL, FILE, SECRET, TableSchema},
    values,
};

/// Where complaints are handed in, and where the outside world is asked.
pub struct LoadContext<'a> {
    /// Environment and files.
    pub sources: &'a dyn Environment,
    base: PathBuf,
    complaints: RefCell<Vec<Diagnostic>>,
    hidden: RefCell<Vec<Range<usize>>>,
}

impl<'a> LoadContext<'a> {
    /// Relative paths begin at `base`.
    pub fn new(sources: &'a dyn Environment, base: &Path) -> Self {
        let (complaints, hidden) = (RefCell::default(), RefCell::default());
        Self { sources, base: base.to_owned(), complaints, hidden }
    }

    /// A path of the file, from the folder of the file.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    /// Takes a complaint.
    pub fn report(&self, diagnostic: Diagnostic) {
        self.complaints.borrow_mut().push(diagnostic);
    }

    /// Takes a complaint that stops us.
    pub fn error(
        &self,
        at: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Diagnostic::error(at, message).help(help));
    }

    /// Takes a complaint that does not.
    pub fn warn(
        &self,
        at: impl Into<Option<Range<usize>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Diagnostic::warning(at, message).help(help));
    }

    /// This place of the file is never shown.
    pub fn redact(&self, place: Range<usize>) {
        self.hidden.borrow_mut().push(place);
    }

    /// What was handed in: the complaints and the places to cover.
    pub fn close(self) -> (Vec<Diagnostic>, Vec<Range<usize>>) {
        (self.complaints.into_inner(), self.hidden.into_inner())
    }
}

/// A string of the file and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StrValue<'a> {
    /// What it says.
    pub text: &'a str,
    /// Its place, quotes included.
    pub at: Range<usize>,
}

/// One table of the file. Keys that its section does not know are complained about on opening.
///
/// A reading that fails leaves a complaint and returns nothing, or the default where there is
/// one, so that the rest of the file is read all the same.
pub struct TableReader<'a> {
    /// What kind of table it is.
    pub section: &'static TableSchema,
    /// Where its header stands; nothing when the file has no such table.
    pub at: Option<Range<usize>>,
    /// Where complaints go.
    pub context: &'a LoadContext<'a>,
    entries: Option<&'a DeTable<'a>>,
}

impl<'a> TableReader<'a> {
    /// The whole file.
    pub fn file(
        section: &'static TableSchema,
        file: &'a DeTable<'a>,
        context: &'a LoadContext<'a>,
    ) -> Self {
        Self { section, at: None, context, entries: Some(file) }.opened()
    }

    fn open(&self, section: &'static TableSchema, value: &'a Spanned<DeValue<'a>>) -> Option<Self> {
        let entries = value.get_ref().as_table()?;
        let (at, desk) = (Some(value.span()), self.context);
        Some(Self { section, at, context: desk, entries: Some(entries) }.opened())
    }

    fn opened(self) -> Self {
        for (key, value) in self.entries.into_iter().flatten() {
            let name: &str = key.get_ref();
            if self.section.example(name).is_some() {
                continue;
            }
            let help = unknown_key(name, self.section);
            if help.contains("secret") {
                self.context.redact(value.span());
            }
            let place = if self.section.title == FILE.title { "at" } else { "in" };
            let message = format!("unknown key `{name}` {place} {}", self.section.title);
            self.context.error(key.span(), message, help);
        }
        self
    }

    /// The value of a key, whatever it is.
    pub fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(self.section.example(key).is_some(), "raw.rs lacks {key}");
        self.entries?.get(key)
    }

    /// Where the value of a key stands.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        self.value(key).map(Spanned::span)
    }

    /// Where an array without elements stands, if that is what the key has.
    pub fn empty_array(&self, key: &str) -> Option<Range<usize>> {
        let value = self.value(key)?;
        let array = value.get_ref().as_array()?;
        array.iter().next().is_none().then(|| value.span())
    }

    /// A table inside this one; an empty one when the file has none.
    pub fn table(&self, key: &str, section: &'static TableSchema) -> Self {
        let absent = Self { section, at: None, context: self.context, entries: None };
        let Some(value) = self.value(key) else { return absent };
        self.open(section, value).unwrap_or_else(|| {
            self.wrong_kind(key, value, "a table");
            absent
        })
    }

    /// Tables in an array: `[[site]]`, or `keys = [{ … }]`.
    pub fn tables(&self, key: &str, section: &'static TableSchema) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_kind(key, value, "an array of tables");
            return Vec::new();
        };
        let open = |value| {
            let table = self.open(section, value);
            if table.is_none() {
                self.wrong_kind(key, value, "an array of tables");
            }
            table
        };
        array.iter().filter_map(open).collect()
    }

    /// A string.
    pub fn word(&self, key: &str) -> Option<StrValue<'a>> {
        let value = self.value(key)?;
        let word = word(value);
        if word.is_none() {
            self.wrong_kind(key, value, "a string");
        }
        word
    }

    /// A string that must be there.
    pub fn required(&self, key: &str) -> Option<StrValue<'a>> {
        if self.value(key).is_none() {
            self.missing(key);
        }
        self.word(key)
    }

    /// An array of strings, or one string alone.
    pub fn words(&self, key: &str) -> Option<Vec<StrValue<'a>>> {
        let value = self.value(key)?;
        if let Some(word) = word(value) {
            return Some(vec![word]);
        }
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_kind(key, value, "an array of strings");
            return Some(Vec::new());
        };
        let read = |value: &'a Spanned<DeValue<'a>>| {
            let word = word(value);
            if word.is_none() {
                self.wrong_kind(key, value, "an array of strings");
            }
            word
        };
        Some(array.iter().filter_map(read).collect())
    }

    /// Strings and tables in an array, or one alone; the tables are the errors.
    pub fn entries(
        &self,
        key: &str,
        section: &'static TableSchema,
    ) -> Vec<Result<StrValue<'a>, Self>> {
        let value = self.value(key);
        let array = value.and_then(|it| it.get_ref().as_array());
        let read = |value| {
            let entry = word(value).map(Ok).or_else(|| self.open(section, value).map(Err));
            if entry.is_none() {
                self.wrong_kind(key, value, "an array of strings or tables");
            }
            entry
        };
        let alone = value.filter(|_| array.is_none());
        array.into_iter().flatten().chain(alone).filter_map(read).collect()
    }

    /// Strings by name: `{ "a.txt" = "…" }`.
    pub fn pairs(&self, key: &str) -> Vec<(StrValue<'a>, StrValue<'a>)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong_kind(key, value, "a table of strings");
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            match word(value) {
                Some(word) => {
                    pairs.push((StrValue { text: name.get_ref(), at: name.span() }, word));
                }
                None => self.wrong_kind(key, value, "a table of strings"),
            }
        }
        // The parser sorts keys by their letters; complaints and headers follow the file.
        pairs.sort_by_key(|(name, _)| name.at.start);
        pairs
    }

    /// True or false.
    pub fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.wrong_kind(key, value, "true or false");
            default
        })
    }

    /// A whole number.
    pub fn number(&self, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        let Some(value) = self.value(key) else { return default };
        let Some(digits) = value.get_ref().as_integer() else {
            self.wrong_kind(key, value, "a whole number");
            return default;
        };
        match u32::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(number) if range.contains(&number) => number,
            Ok(_) | Err(_) => {
                let (min, max) = range.into_inner();
                self.out_of_range(key, value, &min.to_string(), &max.to_string());
                default
            }
        }
    }

    /// A span of time.
    pub fn duration(
        &self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.value(key) else { return default };
        match scalar(value).map(|text| values::duration(&text)) {
            Some(Ok(duration)) if range.contains(&duration) => duration,
            Some(Ok(_)) => {
                let (min, max) = range.into_inner();
                self.out_of_range(key, value, &values::long(min), &values::long(max));
                default
            }
            Some(Err(help)) => {
                self.context.error(value.span(), format!("`{key}` is no duration"), help);
                default
            }
            None => {
                self.wrong_kind(key, value, "a duration");
                default
            }
        }
    }

    /// A number of bytes.
    pub fn size(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.value(key) else { return default };
        match scalar(value).map(|text| values::size(&text)) {
            Some(Ok(size)) if range.contains(&size) => size,
            Some(Ok(_)) => {
                let (min, max) = range.into_inner();
                self.out_of_range(key, value, &values::bytes(min), &values::bytes(max));
                default
            }
            Some(Err(help)) => {
                self.context.error(value.span(), format!("`{key}` is no size"), help);
                default
            }
            None => {
                self.wrong_kind(key, value, "a size");
                default
            }
        }
    }

    /// One of a few words; nothing when the key is absent or its word is none of them.
    pub fn one_of<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let word = self.word(key)?;
        let chosen = choices.iter().find(|(name, _)| *name == word.text);
        if chosen.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.not_one_of(key, &word, &names);
        }
        chosen.map(|(_, choice)| *choice)
    }

    /// Complains that a word is none of those a key may have.
    pub fn not_one_of(&self, key: &str, word: &StrValue<'_>, names: &[&str]) {
        let help = match values::suggest(word.text, names.iter().copied()) {
            Some(near) if names.len() > 1 => {
                format!("did you mean \"{near}\"? {}", values::choices(names))
            }
            Some(_) | None => values::choices(names),
        };
        self.context.error(word.at.clone(), format!("`{key}` cannot be \"{}\"", word.text), help);
    }

    /// Whether there is a key, of whatever name.
    pub fn has_keys(&self) -> bool {
        self.entries.is_some_and(|entries| !entries.is_empty())
    }

    /// Complains that a key must be there.
    pub fn missing(&self, key: &str) {
        let message = format!("`{key}` is missing in {}", self.section.title);
        let help = format!("add {}", self.written(key));
        self.context.error(self.at.clone(), message, help);
    }

    /// Complains that something is planned but not there.
    pub fn unsupported(&self, at: Range<usize>, what: &str, help: &str) {
        self.context.error(at, format!("{what} is not yet supported"), help);
    }

    fn written(&self, key: &str) -> String {
        format!("`{}`", self.section.example(key).unwrap_or(key))
    }

    fn wrong_kind(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let kind = values::indefinite_article(value.get_ref().type_str());
        let message = format!("`{key}` must be {wanted}, not {kind}");
        self.context.error(value.span(), message, format!("write it as in {}", self.written(key)));
    }

    fn out_of_range(&self, key: &str, value: &Spanned<DeValue<'_>>, min: &str, max: &str) {
        let message = format!("`{key}` is out of range");
        self.context.error(value.span(), message, format!("from {min} to {max}"));
    }
}

fn word<'a>(value: &'a Spanned<DeValue<'a>>) -> Option<StrValue<'a>> {
    value.get_ref().as_str().map(|text| StrValue { text, at: value.span() })
}

/// The text of a string or a number: operators write `30` where `"30s"` is meant.
fn scalar(value: &Spanned<DeValue<'_>>) -> Option<String> {
    let number = || value.get_ref().as_integer().map(ToString::to_string);
    value.get_ref().as_str().map(str::to_owned).or_else(number)
}

fn unknown_key(name: &str, section: &TableSchema) -> String {
    let keys = || section.keys.iter().map(|(key, _)| *key);
    if let Some(near) = values::suggest(name, keys()) {
        return format!("did you mean `{near}`?");
    }
    let holds = |other: &&&TableSchema| other.example(name).is_some();
    let homes: Vec<&str> = ALL.iter().filter(holds).map(|other| other.title).collect();
    // Of the few keys of a secret, the operator is told all.
    if homes.is_empty() || section.title == SECRET.title {
        return format!("it has {}", values::list(&keys().collect::<Vec<_>>()));
    }
    format!("`{name}` belongs in {}", homes.join(" or "))
}
