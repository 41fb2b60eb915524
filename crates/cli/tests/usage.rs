//! Arguments: help, errors in three lines, exit statuses, pipes.

mod common;

use std::io::Read;
use std::process::Stdio;

use common::{Folder, assert_error, lowtide, run, small_model};

#[test]
fn every_command_has_help_with_an_example() {
    let models = Folder::new();
    let help = run(lowtide(models.path()).arg("--help"));
    assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    let commands: Vec<&str> = help
        .stdout
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.contains(&"inspect") && commands.contains(&"pull"), "{commands:?}");
    for command in commands {
        let help = run(lowtide(models.path()).args([command, "--help"]));
        assert_eq!(help.status, 0, "{command}");
        let example = format!("lowtide {command}");
        let after = help.stdout.split("Example").nth(1).unwrap_or_default();
        assert!(after.contains(&example), "{command} has no example:\n{}", help.stdout);
        assert!(!help.stdout.contains('\x1b'), "colour in a pipe");
    }
}

#[test]
fn unusable_arguments_are_three_lines_and_status_2() {
    let models = Folder::new();
    for (arguments, wanted) in [
        (&["frobnicate"][..], "frobnicate"),
        (&["inspekt"], "inspect"),
        (&["inspect", "--jsn"], "--json"),
        (&["inspect", "nosuchmodel"], "lowtide pull"),
        (&["inspect", "no/such/model.gguf"], "no file no/such/model.gguf"),
        (&["inspect", "/"], "folder"),
        (&["inspect", "/dev/null"], "regular file"),
        (&["inspect", "hf:x"], "hf:ORGANISATION/REPOSITORY"),
        (&["inspect", "a\nb\x1b[31m"], "there is no model"),
        (&["rm"], "missing <MODEL>"),
        (&["rm", "nosuchmodel"], "lowtide list"),
        (&["rm", "../../etc/passwd"], "lowtide list"),
        (&["pull", "nosuchmodel"], "smollm2-135m"),
        (&["completions", "cmd"], "bash"),
        (&["completions"], "missing"),
        (&["pagetables"], "missing <SIZE>"),
    ] {
        let ran = run(lowtide(models.path()).args(arguments));
        assert_error(&ran, 2);
        assert!(ran.stderr.contains(wanted), "{arguments:?}: {wanted} not in\n{}", ran.stderr);
    }
}

#[test]
fn sizes_that_mean_nothing_are_refused() {
    let models = Folder::new();
    for size in ["0", "1e30", "-3", "6.8XB", "inf", "nan", "", "99999999999999999999P", "6,8GB"] {
        let ran = run(lowtide(models.path()).args(["pagetables", size]));
        assert_error(&ran, 2);
        assert_eq!(ran.stderr.lines().count(), 3, "{}", ran.stderr);
        assert!(ran.stderr.contains("lowtide pagetables --help"), "{}", ran.stderr);
    }
}

#[test]
fn a_name_that_is_nearly_one_is_answered_with_that_one() {
    let folder = Folder::new();
    let path = folder.join("tide-135M.Q4_1.gguf");
    std::fs::write(&path, small_model()).unwrap();
    let elsewhere = Folder::new();
    let near = folder.join("tide-135M.Q4_0.gguf");
    for (store, name, meant) in [
        (&elsewhere, "smolm2", "smollm2-135m".to_owned()),
        (&folder, "tide-135m", "tide-135M.Q4_1".to_owned()),
        (&elsewhere, near.to_str().unwrap(), path.display().to_string()),
    ] {
        let ran = run(lowtide(store.path()).args(["inspect", name]));
        assert_error(&ran, 2);
        let wanted = format!("did you mean {meant}");
        assert!(ran.stderr.contains(&wanted), "{wanted} is not in\n{}", ran.stderr);
    }
    let ran = run(lowtide(elsewhere.path()).args(["inspect", "nothing-like-it"]));
    assert_error(&ran, 2);
    assert!(!ran.stderr.contains("did you mean"), "{}", ran.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = Folder::new();
    let model = folder.join("model.gguf");
    std::fs::write(&model, small_model()).unwrap();
    for arguments in [&["inspect", "--full", model.to_str().unwrap()][..], &["completions", "bash"]]
    {
        let mut child = lowtide(folder.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
    }
}

#[test]
fn numbers_that_are_none_are_told_what_is_wanted() {
    let models = Folder::new();
    for (arguments, wanted) in [
        (&["run", "m", "--seed", "-1"][..], "a whole number of 0 or more is wanted"),
        (&["run", "m", "--ids", ","], "a whole number of 0 or more is wanted"),
        (&["run", "m", "--seed", "99999999999999999999"], "not as large"),
        (&["run", "m", "--ctx", "-5"], "from 1 to 16777216 is wanted"),
    ] {
        let ran = run(lowtide(models.path()).args(arguments));
        assert_error(&ran, 2);
        assert!(ran.stderr.contains(wanted), "{arguments:?}: {wanted} not in\n{}", ran.stderr);
    }
}

#[test]
fn without_a_standard_output_no_result_is_lost_in_silence() {
    let folder = Folder::new();
    let closed = |arguments: &[&str]| {
        let lowtide = lowtide(folder.path());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" >&-"]).arg(lowtide.get_program()).args(arguments);
        run(shell.env("LOWTIDE_MODELS", folder.path()))
    };
    for arguments in [&["list"][..], &["pagetables", "1GiB"], &["--help"], &["--version"]] {
        let ran = closed(arguments);
        assert_error(&ran, 1);
        assert!(ran.stderr.contains("standard output is closed"), "{}", ran.stderr);
    }
    // What is done all the same is done.
    let model = folder.join("given");
    std::fs::write(&model, small_model()).unwrap();
    assert_eq!(closed(&["pull", model.to_str().unwrap()]).status, 0);
    assert!(folder.join("given.gguf").exists());
    // Nobody wants to see it: no error.
    let ran = run(lowtide(folder.path()).arg("list").stdout(Stdio::null()));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
}

#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let models = Folder::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = run(lowtide(models.path()).arg("list").stdout(full));
    assert_error(&ran, 1);
    assert!(ran.stderr.contains("standard output"), "{}", ran.stderr);
}

#[test]
fn completions_and_man_pages_cover_the_commands() {
    let folder = Folder::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(lowtide(folder.path()).args(["completions", shell]));
        assert_eq!(ran.status, 0);
        assert!(ran.stdout.contains("inspect") && ran.stdout.contains("pagetables"), "{shell}");
    }
    let ran = run(lowtide(folder.path()).arg("completions").arg("--man").arg(folder.join("man")));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let page = std::fs::read_to_string(folder.join("man/lowtide-inspect.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("metadata"));
    assert!(folder.join("man/lowtide.1").exists());
}
