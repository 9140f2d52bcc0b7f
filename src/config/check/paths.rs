//! Files and folders that the configuration names. Pure: the desk asks the world.

use std::path::PathBuf;

use crate::config::reader::{StrValue, TableReader};

/// The folder of the operator's own templates.
pub fn pages(pages: &TableReader<'_>) -> Option<PathBuf> {
    pages.at.as_ref()?;
    let word = pages.required("dir")?;
    let path = pages.context.resolve(word.text);
    if !pages.context.sources.is_folder(&path) {
        let message = format!("there is no folder {}", path.display());
        pages.context.error(word.at, message, FROM_HERE);
    }
    Some(path)
}

/// A file that must be there and readable. `private` ones should be closed to other users.
pub fn file(table: &TableReader<'_>, word: &StrValue<'_>, private: bool) -> PathBuf {
    let path = table.context.resolve(word.text);
    match table.context.sources.file(&path) {
        Ok(file) if file.content.is_empty() => {
            let message = format!("{} is empty", path.display());
            table.context.error(word.at.clone(), message, "put a PEM file there");
        }
        Ok(file) if private && file.open_to_all => warn_if_world_readable(table, word, &path),
        Ok(_) => (),
        Err(error) => unreadable(table, word, &path, &error),
    }
    path
}

/// Warns of a secret that every user of the machine can read.
pub fn warn_if_world_readable(
    table: &TableReader<'_>,
    word: &StrValue<'_>,
    path: &std::path::Path,
) {
    let message = format!("every user of this machine can read {}", path.display());
    let help = format!("chmod 600 {}, owned by the user that runs wxgate", path.display());
    table.context.warn(word.at.clone(), message, help);
}

/// Complains of a file that cannot be read.
pub fn unreadable(
    table: &TableReader<'_>,
    word: &StrValue<'_>,
    path: &std::path::Path,
    error: &std::io::Error,
) {
    let message = format!("{} cannot be read: {}", path.display(), crate::config::plain(error));
    let help = if error.kind() == std::io::ErrorKind::PermissionDenied {
        "let the user that runs wxgate read it"
    } else if path.starts_with("/run/credentials") {
        "systemd puts it there while the service runs, and takes it away when the service stops: \
         the LoadCredential= lines of the unit name the file it comes from"
    } else if word.text.starts_with('/') {
        "put it there, or correct the path"
    } else {
        FROM_HERE
    };
    table.context.error(word.at.clone(), message, help);
}

const FROM_HERE: &str = "relative paths begin at the folder of this file";
