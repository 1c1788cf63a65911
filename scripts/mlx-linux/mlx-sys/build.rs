//! Makes the bindings and names the libraries that prepare.sh put under `MLX_LINUX`.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=MLX_LINUX");
    let Some(root) = std::env::var_os("MLX_LINUX").map(PathBuf::from) else {
        panic!("MLX_LINUX is not set: this stand-in for mlx-sys is built by `make test-mlx`");
    };
    let headers = root.join("mlx-c");
    let list = std::fs::read_dir(headers.join("mlx/c")).expect("prepare.sh copied mlx-c's headers");
    let mut files: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "h"));
    files.sort();
    let builder = files.iter().fold(
        bindgen::Builder::default()
            .clang_arg(format!("-I{}", headers.display()))
            .blocklist_function("malloc|realloc")
            .blocklist_type("float16_t|bfloat16_t"),
        |builder, file| builder.header(file.to_string_lossy()),
    );
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bindings = builder.generate().expect("bindgen reads mlx-c's headers");
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR can be written to");
    link(&root.join("build"), "mlxc");
    link(&root.join("wheel/mlx/lib"), "mlx");
    println!("cargo:rustc-link-lib=dylib=stdc++");
}

fn link(folder: &Path, library: &str) {
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib={library}");
}
