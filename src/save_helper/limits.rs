//! The limits of a live save that whoever runs the host has set: libxl and xl have no options for them.
//!
//! They are words of the form `name=value`, in the environment variable [`ENVIRONMENT`], which xl passes on, or in files, where lines
//! from `#` on are comments. What is in a later row counts before what is in an earlier one:
//!
//! | where | whose |
//! |---|---|
//! | `/etc/xen-replicate/live` | every domain |
//! | `/etc/xen-replicate/live.d/NAME` | the domain of this name |
//! | `/etc/xen-replicate/live.d/UUID` | the domain with this UUID |
//! | [`ENVIRONMENT`] | whatever this xl saves |
//!
//! | word | meaning | without it |
//! |---|---|---|
//! | `rounds=N` | at most so many rounds, the first of which sends all | 5 |
//! | `pages=N` | fewer dirty pages than this are few enough | 50 |
//! | `downtime=MS` | so are those that can be sent in this many milliseconds, at the rate of the last round | - |
//! | `time=S` | no round begins behind so many seconds | - |
//! | `bandwidth=MIB` | so many MiB of pages in a second while the guest runs | - |
//! | `otherwise=suspend`, `otherwise=abort` | where rounds or time are up: suspend the guest and send the rest, or give up | `suspend` |
#![forbid(unsafe_code)]

use crate::libxc::precopy::{Limits, Otherwise};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// The environment variable.
pub const ENVIRONMENT: &str = "XEN_REPLICATE_LIVE";
/// The folder of the files.
pub const FOLDER: &str = "/etc/xen-replicate";

/// Limits that make no sense, or cannot be read.
#[derive(Debug, Error)]
pub enum LimitsError {
    /// A word that is none.
    #[error("{place}: {word:?}: {problem}")]
    Word {
        /// The file or the variable.
        place: Place,
        /// The word.
        word: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file that cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

/// Where limits stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the environment.
    Environment,
    /// In this file.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Environment => f.write_str(ENVIRONMENT),
            Place::File(path) => path.display().fmt(f),
        }
    }
}

/// The limits for a domain that goes by these names, of the files in `folder` and of the environment's words.
///
/// # Errors
/// [`LimitsError`]; a file that is not there is none.
pub fn limits(folder: &Path, names: &[&str], environment: Option<&str>) -> Result<Limits, LimitsError> {
    let mut limits = Limits::default();
    // A name with a slash is no file's.
    let names = names.iter().filter(|name| !name.is_empty() && !name.contains('/') && !name.starts_with('.'));
    let files = std::iter::once(folder.join("live")).chain(names.map(|name| folder.join("live.d").join(name)));
    for path in files {
        match std::fs::read_to_string(&path) {
            Ok(text) => words(&mut limits, &text, &Place::File(path))?,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => return Err(LimitsError::Read { path, error }),
        }
    }
    words(&mut limits, environment.unwrap_or_default(), &Place::Environment)?;
    Ok(limits)
}

fn words(limits: &mut Limits, text: &str, place: &Place) -> Result<(), LimitsError> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    for word in lines.flat_map(str::split_whitespace) {
        take(limits, word).map_err(|problem| LimitsError::Word { place: place.clone(), word: word.into(), problem })?;
    }
    Ok(())
}

fn take(limits: &mut Limits, word: &str) -> Result<(), &'static str> {
    let (name, value) = word.split_once('=').ok_or("not of the form name=value")?;
    let number = || value.parse::<u32>().map_err(|_| "not a number below 2^32");
    let positive = || number().and_then(|number| if number == 0 { Err("must not be 0") } else { Ok(number) });
    match name {
        "rounds" => limits.rounds = positive()?,
        "pages" => limits.few_pages = number()?.into(),
        "downtime" => limits.downtime = Some(Duration::from_millis(positive()?.into())),
        "time" => limits.time = Some(Duration::from_secs(positive()?.into())),
        "bandwidth" => limits.bandwidth = Some(u64::from(positive()?) << 20),
        "otherwise" => {
            limits.otherwise = match value {
                "suspend" => Otherwise::Suspend,
                "abort" => Otherwise::Abort,
                _ => return Err("not suspend or abort"),
            }
        }
        _ => return Err("no such limit: rounds, pages, downtime, time, bandwidth, otherwise"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn without_anything_they_are_xens() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(limits(folder.path(), &["web"], None).unwrap(), Limits::default());
        assert_eq!(limits(&folder.path().join("none"), &[], Some("")).unwrap(), Limits::default());
    }

    #[test]
    fn the_domains_file_counts_before_the_hosts_and_the_environment_before_both() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("live.d")).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("live", "# of all domains\nrounds=9 pages=7 # few\n time=60\nbandwidth=100\n");
        write("live.d/web", "otherwise=abort\nrounds=20\n");
        write("live.d/00000000-0000-0000-0000-000000000001", "rounds=30");
        write("secret", "rounds=1");
        let of = |names: &[&str], environment| limits(folder.path(), names, environment).unwrap();
        let all = Limits {
            rounds: 9,
            few_pages: 7,
            time: Some(Duration::from_secs(60)),
            bandwidth: Some(100 << 20),
            ..Limits::default()
        };
        assert_eq!(of(&["db", "../secret", ""], None), all);
        let web = Limits { rounds: 20, otherwise: Otherwise::Abort, ..all };
        assert_eq!(of(&["web"], None), web);
        assert_eq!(of(&["web", "00000000-0000-0000-0000-000000000001"], None).rounds, 30);
        let told = of(&["web"], Some("downtime=300 rounds=2"));
        assert_eq!(told, Limits { rounds: 2, downtime: Some(Duration::from_millis(300)), ..web });
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        let none = Path::new("/nowhere");
        for (word, problem) in [
            ("rounds", "name=value"),
            ("rounds=0", "must not be 0"),
            ("rounds=-1", "not a number"),
            ("pages=5000000000", "not a number"),
            ("downtime=", "not a number"),
            ("bandwidth=0", "must not be 0"),
            ("otherwise=stop", "suspend or abort"),
            ("speed=3", "no such limit"),
        ] {
            let text = limits(none, &[], Some(&format!("pages=1 {word}"))).unwrap_err().to_string();
            assert!(text.contains(ENVIRONMENT) && text.contains(word) && text.contains(problem), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("live"), "rounds=x").unwrap();
        let text = limits(folder.path(), &[], None).unwrap_err().to_string();
        assert!(text.starts_with(folder.path().join("live").to_str().unwrap()), "{text}");
        fs::remove_file(folder.path().join("live")).unwrap();
        fs::create_dir(folder.path().join("live")).unwrap();
        assert!(matches!(limits(folder.path(), &[], None), Err(LimitsError::Read { .. })));
    }
}
