//! Where libxenctrl is that the bindings are linked to.

fn main() {
    println!("cargo:rerun-if-env-changed=XEN_ORACLE_LIBRARIES");
    if let Some(folder) = std::env::var_os("XEN_ORACLE_LIBRARIES") {
        println!("cargo:rustc-link-search=native={}", folder.display());
        // What libxenctrl needs is the stand-in's, and is there when it runs.
        println!("cargo:rustc-link-arg=-Wl,--allow-shlib-undefined");
    }
}
