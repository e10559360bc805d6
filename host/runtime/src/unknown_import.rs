//! What the author of a module with an unknown import can do.

/// Says which import is unknown, and which versions meet if it is one of a newer ABI.
pub(super) fn describe(module: &str, name: &str) -> String {
    const HOST: &str = concat!("this host, of Kvasm ", env!("CARGO_PKG_VERSION"), ",");
    let advice = "upgrade the host, or build the plugin with the SDK of the host's version";
    match module.strip_prefix("kvasm_v") {
        Some(_) if module == kvasm_abi::MODULE => format!(
            "the module imports {name:?} of {module}, which {HOST} does not have: the plugin was \
             built for a newer host; {advice}"
        ),
        Some(_) => format!(
            "the plugin was built for the ABI {module:?}; {HOST} has {}; {advice}",
            kvasm_abi::MODULE
        ),
        None => format!(
            "the module imports {module:?} {name:?}, which this host does not provide; it \
             provides the functions of {} and WASI preview 1",
            kvasm_abi::MODULE
        ),
    }
}
