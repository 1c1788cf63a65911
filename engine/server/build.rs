//! Where binaries and tests look for libduckdb.
include!("../rpath.rs");
