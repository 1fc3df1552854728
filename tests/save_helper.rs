//! Debian's own `libxl-save-helper`, with its own `libxenguest` and `libxenctrl`, against this project's libxc: on simulated domains,
//! through the library of `tests/standin`.
//!
//! ```text
//! cargo test --test save_helper -- --ignored
//! ```
//!
//! The first run downloads Debian's packages and builds the stand-in (`tests/standin/setup`).

#[path = "save_helper/bad.rs"]
mod bad;
#[path = "save_helper/balloon.rs"]
mod balloon;
#[path = "save_helper/beside.rs"]
mod beside;
#[path = "save_helper/colo.rs"]
mod colo;
mod common;
#[path = "save_helper/control.rs"]
mod control;
#[path = "save_helper/converted.rs"]
mod converted;
#[path = "save_helper/driver.rs"]
mod driver;
#[path = "save_helper/failing.rs"]
mod failing;
#[path = "save_helper/helper.rs"]
mod helper;
#[path = "save_helper/home.rs"]
mod home;
#[path = "save_helper/host_info.rs"]
mod host_info;
#[path = "save_helper/limits.rs"]
mod limits;
#[path = "save_helper/live.rs"]
mod live;
#[path = "save_helper/message.rs"]
mod message;
#[path = "save_helper/ours.rs"]
mod ours;
#[path = "save_helper/plain.rs"]
mod plain;
#[path = "save_helper/pv.rs"]
mod pv;
#[path = "save_helper/pv_bad.rs"]
mod pv_bad;
#[path = "save_helper/pv_home.rs"]
mod pv_home;
#[path = "save_helper/releases.rs"]
mod releases;
#[path = "save_helper/remus.rs"]
mod remus;
