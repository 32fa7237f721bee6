//! Every target over its corpus, and over inputs near it: a few seconds of fuzzing without guidance and without luck (the
//! inputs are the same in every run). What a longer, guided run finds joins the corpus.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::Duration;

use fuzz::{TARGETS, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// What grammars are made of: an edit that puts one of these somewhere goes further than one byte does.
const PIECES: [&str; 44] = [
    "\n",
    "\u{1e}",
    "0",
    "1",
    "2",
    "3",
    "4",
    "40",
    "41",
    "42",
    "43",
    "45",
    "46",
    "-",
    "51-",
    "b",
    "b==",
    "/",
    "/custom",
    ",",
    ":",
    ".",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "\\u0000",
    "\\ud800",
    "null",
    "true",
    "-1",
    "1e9",
    "0.5",
    "99999999999999999999",
    "[]",
    "{}",
    "\"x\"",
    " ",
    "\u{fe}\u{ff}",
    "\u{2028}",
    "probe",
    "{\"_placeholder\":true,\"num\":0}",
    "=",
];

/// A thousand times what one input takes, and more, on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// One change to an input.
#[derive(Debug, Clone)]
enum Edit {
    Put(Index, &'static str),
    Set(Index, u8),
    Cut(Index, usize),
    Repeat(Index, usize),
    /// Goes on as another input of the corpus does.
    Cross(Index, Index),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        4 => (any::<Index>(), select(&PIECES[..])).prop_map(|(at, piece)| Edit::Put(at, piece)),
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (any::<Index>(), 1..20_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        1 => (any::<Index>(), 1..40_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(at, other)| Edit::Cross(at, other)),
    ];
    vec(edit, 1..6)
}

fn apply(edit: &Edit, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let end = input.len();
    let place = |at: &Index| at.index(end + 1);
    match edit {
        Edit::Put(at, piece) => {
            let at = place(at);
            input.splice(at..at, piece.bytes());
        }
        Edit::Set(at, byte) if end > 0 => input[at.index(end)] = *byte,
        Edit::Set(..) => {}
        Edit::Cut(at, length) => {
            let at = place(at);
            input.drain(at..end.min(at + length));
        }
        Edit::Repeat(at, length) => {
            let at = place(at);
            let piece = input[at..end.min(at + length)].to_vec();
            input.splice(at..at, piece);
        }
        Edit::Cross(at, other) => {
            let other = &corpus[other.index(corpus.len())];
            let at = place(at);
            input.truncate(at);
            input.extend(&other[at.min(other.len())..]);
        }
    }
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

/// Runs a target over its corpus, then over `cases` inputs near it.
fn smoke(name: &str, cases: u32) {
    let target = target(name);
    let watch = watch(name);
    let check = |input: &[u8]| {
        // The watchdog lives as long as this test does.
        watch.send(input.to_vec()).unwrap();
        target(input);
    };
    let folder = folder(name);
    let mut corpus = Vec::new();
    for file in names(&folder) {
        let input = fs::read(folder.join(&file)).unwrap();
        if std::panic::catch_unwind(AssertUnwindSafe(|| check(&input))).is_err() {
            panic!("{name}: corpus file {file}: {}", input.escape_ascii());
        }
        corpus.push(input);
    }
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..Config::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let near = |(start, edits): &(Index, Vec<Edit>)| {
        let mut input = corpus[start.index(corpus.len())].clone();
        for edit in edits {
            apply(edit, &mut input, &corpus);
        }
        input
    };
    let result = TestRunner::new_with_rng(config, rng).run(&(any::<Index>(), edits()), |case| {
        check(&near(&case));
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, case)) => {
            panic!("{name}: {reason}\ninput: {}", near(&case).escape_ascii())
        }
        Err(TestError::Abort(reason)) => panic!("{name}: {reason}"),
    }
}

/// Ends the process where one input takes too long: a test that hangs would say nothing about it.
fn watch(name: &str) -> Sender<Vec<u8>> {
    let (sender, inputs) = std::sync::mpsc::channel::<Vec<u8>>();
    let name = name.to_owned();
    std::thread::spawn(move || {
        let mut last = Vec::new();
        loop {
            match inputs.recv_timeout(PATIENCE) {
                Ok(input) => last = input,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("{name} takes too long over {}", last.escape_ascii());
                    std::process::abort();
                }
            }
        }
    });
    sender
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|(one, _)| *one == name).unwrap().1
}

macro_rules! targets {
    ($($name:ident: $cases:literal),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                smoke(stringify!($name), $cases);
            }
        )*

        const SMOKED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    access_token: 10_000,
    client_address: 40_000,
    commands: 40_000,
    connection: 4_000,
    engine_io: 40_000,
    envelope: 40_000,
    ids: 40_000,
    plain: 40_000,
    settings: 4_000,
    socket_io: 60_000,
    socket_io_written: 40_000,
}

#[test]
fn every_target_has_a_corpus_a_program_and_a_test() {
    let wanted: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(names(&here.join("corpus")), wanted);
    assert_eq!(names(&here.join("fuzz_targets")), wanted);
    assert_eq!(
        SMOKED
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>(),
        wanted
    );
    let manifest = fs::read_to_string(here.join("Cargo.toml")).unwrap();
    for name in &wanted {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
    }
}
