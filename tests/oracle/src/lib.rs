//! Xen's interfaces as Xen's own headers have them, by the bindings of `xenctrl-sys`. `run` chooses the headers, `README.md` has more.

pub use xenctrl_sys as c;
