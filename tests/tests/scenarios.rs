//! The scenario tier: every story in `scenarios/` comes out as told, whatever writes fail on the way. Needs no
//! privileges.

use std::fs;
use std::path::{Path, PathBuf};

use segue_tests::scenario::{Step, Story, Teller};

/// Runs of each story, each with other faults.
const RUNS: u64 = 25;

fn stories() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = fs::read_dir(folder).expect("the folder of stories");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let text = |file: &PathBuf| fs::read_to_string(file).expect("a story is text");
    files.iter().map(|file| (file.clone(), text(file))).collect()
}

#[test]
fn every_story_comes_out_as_told() {
    let update = std::env::var_os("SEGUE_UPDATE_SCENARIOS").is_some_and(|value| value == "1");
    let stories = stories();
    assert!(stories.len() >= 10, "stories are missing: {}", stories.len());
    let mut failures = String::new();
    for (file, text) in stories {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut story = Story::parse(&text).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        for seed in 0..RUNS {
            match Teller::new(seed << 16).tell(&story) {
                Ok(differences) if differences.is_empty() => {}
                Ok(differences) if update && seed == 0 => {
                    differences.iter().for_each(|(line, actual)| story.rewrite(*line, actual));
                    fs::write(&file, story.render()).expect("a story can be written");
                }
                Ok(differences) => {
                    for (line, actual) in differences {
                        failures +=
                            &format!("{name}:{line}: (faults {seed}) the maps or problems are\n{actual}\n");
                    }
                    break;
                }
                Err(error) => {
                    failures += &format!("{name}: (faults {seed}) {error:#}\n");
                    break;
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures}\nSEGUE_UPDATE_SCENARIOS=1 rewrites what is expected");
}

#[test]
fn a_story_is_written_back_as_it_was_read() {
    for (file, text) in stories() {
        let story = Story::parse(&text).unwrap_or_else(|error| panic!("{}: {error:#}", file.display()));
        assert_eq!(story.render(), text, "{}", file.display());
    }
}

#[test]
fn a_story_that_expects_something_else_is_told_apart() {
    let story = Story::parse("apply\n    services: []\nexpect maps\n    frontends\n").expect("a story");
    let differences = Teller::new(0).tell(&story).expect("it can be told");
    assert_eq!(differences, [(3, String::new())]);
}

#[test]
fn a_story_must_end_with_empty_maps() {
    let yaml = "services: [{name: web, frontends: ['10.0.0.1:80'], backends: ['10.1.0.1:80']}]";
    let story = Story::parse(&format!("apply\n    {yaml}\n")).expect("a story");
    let error = Teller::new(0).tell(&story).expect_err("the maps are not empty");
    assert!(error.to_string().contains("a story ends with empty maps"), "{error:#}");
}

#[test]
fn problems_that_nobody_expects_end_a_story() {
    let story = Story::parse("apply\n    services: 7\napply\n    services: []\n").expect("a story");
    let error = Teller::new(0).tell(&story).expect_err("the first apply has problems");
    assert!(format!("{error:#}").contains("line 3: nobody expected these problems"), "{error:#}");
}

#[test]
fn a_line_that_is_no_step_is_named() {
    let error = Story::parse("# a comment\n\nrestart now\n").expect_err("no such step");
    assert_eq!(format!("{error:#}"), "line 3: \"restart now\": no such step");
    let story = Story::parse("faults 30\ncrash 4\n").expect("a story");
    assert!(story.steps().eq([(1, &Step::Faults(30)), (2, &Step::Crash(4))]));
}
