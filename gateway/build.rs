//! Embedded migrations are part of the program: a changed or added file builds it anew.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
