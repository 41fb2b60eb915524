//! `lowtide-replay` as it is called: what cannot be counted is refused, a reader may go away.

use std::process::{Command, Output, Stdio};

fn replay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide-replay"));
    command.args(["--shape", "2,8,2", "--policies", "lru"]);
    command
}

fn ran(arguments: &[&str]) -> Output {
    replay().args(arguments).output().unwrap()
}

#[test]
fn a_table_has_a_row_for_each_kind_of_traffic_and_size() {
    let output = ran(&["--tokens", "60", "--warm", "20", "--slots", "50"]);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(
        table.lines().count() > 2 && table.lines().all(|line| line.starts_with('|')),
        "{table}"
    );
}

#[test]
fn what_leaves_nothing_to_count_is_refused() {
    for arguments in [
        &["--slots", "0"][..],
        &["--slots", "30,101"],
        &["--tokens", "100", "--warm", "100"],
        &["--tokens", "0", "--warm", "0"],
    ] {
        let output = ran(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = replay();
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
