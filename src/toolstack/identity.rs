//! A domain as the operator names it, and what libxl has put down of it.
#![forbid(unsafe_code)]

use super::failed;
use super::store::Store;
use crate::hypervisor::{Error, Result, Uuid};
use serde_json::Value;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where libxl keeps the configuration of running domains.
const USERDATA: &str = "/var/lib/xen";
/// Most bytes of a configuration that are read.
const MOST_CONFIG: u64 = 16 << 20;

/// What kind of guest libxl has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Paravirtualised.
    Pv,
    /// Hardware-assisted, without an emulator.
    Pvh,
    /// Hardware-assisted, with an emulator beside it.
    Hvm,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Pv => "PV",
            Kind::Pvh => "PVH",
            Kind::Hvm => "HVM",
        })
    }
}

/// A domain of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub domid: u32,
    /// Its name.
    pub name: String,
    /// What kind of guest it is.
    pub kind: Kind,
}

impl Identity {
    /// The domain of this name, else of this number.
    ///
    /// # Errors
    /// There is none, or more than one of the name; xenstore's.
    pub fn find(store: &Store, called: &str) -> Result<Self> {
        let asked = |error| failed("xenstore", error);
        let mut found = Vec::new();
        for entry in store.list("/local/domain").map_err(asked)? {
            let Ok(domid) = entry.parse::<u32>() else { continue };
            if let Some(name) = store.get(&format!("/local/domain/{domid}/name")).map_err(asked)?
                && name == called
            {
                found.push(domid);
            }
        }
        let domid = match (&found[..], called.parse::<u32>()) {
            (&[domid], _) => domid,
            ([], Ok(domid)) => domid,
            ([], Err(_)) => return Err(Error::Toolstack(format!("there is no domain {called:?} on this host"))),
            _ => {
                return Err(Error::Toolstack(format!("{} domains are called {called:?}: {found:?}", found.len())));
            }
        };
        if domid == 0 {
            return Err(Error::Toolstack("domain 0 is the host itself: it cannot be protected".into()));
        }
        Identity::of(store, domid)
    }

    /// The domain of this number.
    ///
    /// # Errors
    /// There is none that libxl has made; xenstore's.
    pub fn of(store: &Store, domid: u32) -> Result<Self> {
        let asked = |error| failed("xenstore", error);
        let name = store.get(&format!("/local/domain/{domid}/name")).map_err(asked)?;
        let kind = store.get(&format!("/libxl/{domid}/type")).map_err(asked)?;
        let (Some(name), Some(kind)) = (name, kind) else { return Err(Error::NoSuchDomain { domid }) };
        let kind = match &kind[..] {
            "pv" => Kind::Pv,
            "pvh" => Kind::Pvh,
            "hvm" => Kind::Hvm,
            other => return Err(Error::Toolstack(format!("domain {domid} is of the unknown type {other:?}"))),
        };
        Ok(Identity { domid, name, kind })
    }

    /// The configuration as `xl migrate` sends it: JSON, with the domain's name and UUID as they are now.
    ///
    /// libxl keeps it up to date but for memory that was ballooned away or back meanwhile.
    ///
    /// # Errors
    /// There is no such file, or it is not libxl's.
    pub fn config(&self, uuid: Uuid) -> Result<String> {
        let path = PathBuf::from(format!("{USERDATA}/userdata-d.{}.{uuid}.libxl-json", self.domid));
        let text = read(&path)?;
        current(&text, &self.name, uuid).map_err(|error| failed(path.display(), error))
    }
}

fn read(path: &Path) -> Result<String> {
    let named = |error: &dyn fmt::Display| failed(path.display(), error);
    let file = fs::File::open(path).map_err(|error| named(&error))?;
    let mut text = String::new();
    file.take(MOST_CONFIG).read_to_string(&mut text).map_err(|error| named(&error))?;
    Ok(text)
}

/// The configuration with name and UUID in it. libxl ends the file with a NUL.
fn current(text: &str, name: &str, uuid: Uuid) -> std::result::Result<String, String> {
    let mut config: Value = serde_json::from_str(text.trim_end_matches('\0')).map_err(|error| error.to_string())?;
    let info = config.get_mut("c_info").and_then(Value::as_object_mut).ok_or("a configuration without c_info")?;
    info.insert("name".into(), name.into());
    info.insert("uuid".into(), uuid.to_string().into());
    Ok(config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_name_of_now_and_the_order_of_libxl() {
        let uuid: Uuid = "12345678-9abc-def0-1234-56789abcdef0".parse().unwrap();
        let text = "{\"c_info\": {\"type\": \"pvh\", \"name\": \"old\"}, \"b_info\": {\"max_vcpus\": 1}}\0";
        let expected = format!(
            "{{\"c_info\":{{\"type\":\"pvh\",\"name\":\"web\",\"uuid\":\"{uuid}\"}},\"b_info\":{{\"max_vcpus\":1}}}}"
        );
        assert_eq!(current(text, "web", uuid).unwrap(), expected);
        assert!(current("{}", "web", uuid).unwrap_err().contains("c_info"));
        assert!(current("nonsense", "web", uuid).is_err());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read(Path::new("/var/lib/xen/none")).unwrap_err().to_string();
        assert!(error.starts_with("/var/lib/xen/none: "), "{error}");
    }
}
