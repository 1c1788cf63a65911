include!("../rpath.rs");
