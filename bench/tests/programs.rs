//! The programs of this crate start. Cargo builds them with this test.

use std::process::Command;

#[test]
fn every_program_tells_its_options() {
    for program in [
        env!("CARGO_BIN_EXE_products"),
        env!("CARGO_BIN_EXE_streams"),
        env!("CARGO_BIN_EXE_attention"),
        env!("CARGO_BIN_EXE_rows"),
        env!("CARGO_BIN_EXE_sweep"),
    ] {
        let told = Command::new(program).arg("--help").output().expect("it can be started");
        assert!(
            told.status.success() && String::from_utf8_lossy(&told.stdout).contains("Usage"),
            "{program}: {told:?}"
        );
    }
}
