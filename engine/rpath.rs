// Shared by the build scripts of the crates that link libduckdb, by `include!`.

/// Lets binaries and tests find libduckdb: beside an installed command (`bin/../lib/headstart`) first, then
/// in the folder that it was linked from. `HEADSTART_RELOCATABLE=1` leaves that folder out, for binaries that
/// are shipped to other machines.
fn main() {
    println!("cargo:rerun-if-env-changed=DUCKDB_LIB_DIR");
    println!("cargo:rerun-if-env-changed=HEADSTART_RELOCATABLE");
    let apple = std::env::var("CARGO_CFG_TARGET_VENDOR").is_ok_and(|vendor| vendor == "apple");
    let here = if apple { "@executable_path" } else { "$ORIGIN" };
    println!("cargo:rustc-link-arg=-Wl,-rpath,{here}/../lib/headstart");
    let relocatable = std::env::var_os("HEADSTART_RELOCATABLE").is_some_and(|on| on == "1");
    if let (Ok(dir), false) = (std::env::var("DUCKDB_LIB_DIR"), relocatable) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{dir}");
    }
}
