//! The domain configuration in the xl preamble: JSON text with a NUL behind it.
//!
//! Source: `libxl_domain_config` in libxl's IDL, as its JSON generator writes it.

use serde::Serialize;
use serde_json::Value;

use super::error::DecodeError;

/// The configuration: a few facts picked out, and the whole of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct XlConfig {
    /// Name of the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// UUID of the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// `pv`, `hvm` or `pvh`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Memory limit in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memkb: Option<u64>,
    /// Memory at start in KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_memkb: Option<u64>,
    /// Number of vCPUs at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u64>,
    /// Number of disks.
    pub disks: usize,
    /// Number of network interfaces.
    pub nics: usize,
    /// Whether a NUL ends the text, as xl writes it.
    pub nul_terminated: bool,
    /// The whole configuration; absent when empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
}

impl XlConfig {
    /// Decodes the configuration text. No bytes at all, or just the NUL, is an empty
    /// configuration. Deep nesting is refused by the JSON parser (128 levels), so the stack is
    /// bounded.
    ///
    /// # Errors
    /// [`DecodeError::NotText`] for bytes that are not UTF-8, [`DecodeError::NotJson`] for text that
    /// is not one JSON value.
    pub fn decode(blob: &[u8]) -> Result<XlConfig, DecodeError> {
        let (text, nul_terminated) = match blob.split_last() {
            Some((0, text)) => (text, true),
            _ => (blob, false),
        };
        let text = std::str::from_utf8(text)
            .map_err(|e| DecodeError::NotText { what: "xl configuration", offset: e.valid_up_to() })?;
        let config: Option<Value> = if text.trim().is_empty() {
            None
        } else {
            Some(
                serde_json::from_str(text)
                    .map_err(|e| DecodeError::NotJson { what: "xl configuration", message: e.to_string() })?,
            )
        };
        let at = |path: &[&str]| path.iter().try_fold(config.as_ref()?, |value, key| value.get(*key));
        let string = |path: &[&str]| at(path).and_then(Value::as_str).map(str::to_owned);
        let number = |path: &[&str]| at(path).and_then(Value::as_u64);
        let count = |key: &str| at(&[key]).and_then(Value::as_array).map_or(0, Vec::len);
        Ok(XlConfig {
            name: string(&["c_info", "name"]),
            uuid: string(&["c_info", "uuid"]),
            kind: string(&["c_info", "type"]),
            max_memkb: number(&["b_info", "max_memkb"]),
            target_memkb: number(&["b_info", "target_memkb"]),
            max_vcpus: number(&["b_info", "max_vcpus"]),
            disks: count("disks"),
            nics: count("nics"),
            nul_terminated,
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: &str = r#"{"c_info": {"type": "pvh", "name": "web", "uuid": "0d1e"},
        "b_info": {"max_vcpus": 2, "max_memkb": 65536, "target_memkb": 32768}, "disks": [{}, {}], "nics": [{}]}"#;

    #[test]
    fn facts_are_picked_and_the_whole_is_kept() {
        let mut blob = SMALL.as_bytes().to_vec();
        blob.push(0);
        let config = XlConfig::decode(&blob).unwrap();
        assert_eq!(config.name.as_deref(), Some("web"));
        assert_eq!(config.uuid.as_deref(), Some("0d1e"));
        assert_eq!(config.kind.as_deref(), Some("pvh"));
        assert_eq!((config.max_vcpus, config.max_memkb, config.target_memkb), (Some(2), Some(65536), Some(32768)));
        assert_eq!((config.disks, config.nics, config.nul_terminated), (2, 1, true));
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json["type"], "pvh");
        assert_eq!(json["config"]["b_info"]["max_vcpus"], 2);
    }

    #[test]
    fn an_empty_configuration_is_legal() {
        for (blob, nul) in [(&b""[..], false), (b"\0", true), (b" \n\0", true)] {
            let config = XlConfig::decode(blob).unwrap();
            assert_eq!((config.config, config.name, config.nul_terminated), (None, None, nul));
        }
    }

    #[test]
    fn facts_of_another_shape_are_left_out() {
        let config = XlConfig::decode(br#"{"c_info": 5, "b_info": {"max_memkb": "x"}, "disks": {}}"#).unwrap();
        assert_eq!((config.name, config.max_memkb, config.disks), (None, None, 0));
        assert!(!config.nul_terminated);
    }

    #[test]
    fn what_is_no_text_or_no_json_is_refused() {
        assert_eq!(
            XlConfig::decode(b"{\"a\xff\"}\0"),
            Err(DecodeError::NotText { what: "xl configuration", offset: 3 })
        );
        for len in 1..SMALL.len() {
            let error = XlConfig::decode(&SMALL.as_bytes()[..len]).unwrap_err();
            assert!(error.to_string().starts_with("xl configuration: not JSON: "), "{error}");
        }
        assert!(XlConfig::decode(b"{}\0{}\0").is_err());
        assert!(XlConfig::decode("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(blob in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = XlConfig::decode(&blob).map(|config| serde_json::to_string(&config).unwrap());
        }
    }
}
