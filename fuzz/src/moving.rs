//! Any bytes as what is moved from one Xen to another: a legacy image that is converted, a guest that is held against releases, a host's facts.

use std::io::Cursor;
use xen_replicate::host_info::HostInfo;
use xen_replicate::inspect::Input;
use xen_replicate::inspect::fit::{Guest, Target, judge};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::Options;
use xen_replicate::legacy;
use xen_replicate::stream::reader::SliceReader;

fn guest(bytes: &[u8]) -> Guest {
    let input = Input::Compressed(Box::new(Cursor::new(bytes.to_vec())));
    let options = Options { all: true, ..Options::default() };
    Guest::read(input, &options, &mut Progress::none()).unwrap_or_default()
}

/// Takes bytes for each of them.
pub fn take(bytes: &[u8]) {
    let mut out = Vec::new();
    if legacy::convert(bytes, &mut out).is_ok() {
        let mut reader = SliceReader::new(&out, Default::default());
        while reader
            .next_item()
            .unwrap_or_else(|error| panic!("what was converted cannot be followed: {error}"))
            .is_some()
        {}
        assert!(out.len() <= bytes.len() * 4 + 4096, "{} bytes out of {}", out.len(), bytes.len());
    }
    let host = HostInfo::parse(bytes).ok();
    if let Some(host) = &host {
        let text = serde_json::to_vec(host).unwrap();
        assert_eq!(HostInfo::parse(&text).unwrap(), *host);
    }
    let guest = guest(bytes);
    let (old, new) = (["4.14.0", "4.17"], ["4.20.1", "4.22"]);
    let targets = old.into_iter().chain(new).filter_map(|text| text.parse().ok()).map(Target::Release);
    let itself = Target::Guest("itself".into(), Box::new(guest.clone()));
    let host = host.map(|host| Target::Host("host".into(), Box::new(host)));
    for target in targets.chain([itself]).chain(host) {
        let fit = judge(&guest, &target);
        assert_eq!(fit.fits(), fit.findings.iter().all(|found| found.severity != "refused"));
        let mut text = Vec::new();
        fit.write_text(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
}
