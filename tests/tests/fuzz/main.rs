//! Fuzzing of everything that reads bytes others can write. Seeds from real examples are changed at random; what is
//! found shrinks to the fewest changes. The short form has a fixed seed, the long one (`cargo xtask fuzz`) a new one.

mod admin;
mod adopt;
mod cgroups;
mod config;
mod exposition;
mod kubernetes;
mod mutate;
mod ring;

use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

/// Inputs of the short form, of each target.
const CASES: u32 = 300;

/// Inputs between two looks at the clock.
const ROUND: u32 = 200;

/// Runs inputs made from the seeds against a target, which panics where something does not hold.
fn fuzz(seeds: &[Vec<u8>], tokens: &[&str], target: impl Fn(&[u8])) {
    let number = |variable| std::env::var(variable).ok().map(|text| text.parse::<u64>().expect("a number"));
    // As they are first: a seed that is not understood would make everything after it worthless.
    seeds.iter().for_each(|seed| target(seed));
    let Some(seconds) = number("SEGUE_FUZZ_SECONDS") else {
        return round(seeds, tokens, number("SEGUE_FUZZ_SEED").unwrap_or(1), CASES, &target);
    };
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut inputs = 0;
    while Instant::now() < until {
        round(seeds, tokens, new_seed(), ROUND, &target);
        inputs += ROUND;
    }
    println!("{inputs} inputs");
}

fn round(seeds: &[Vec<u8>], tokens: &[&str], seed: u64, cases: u32, target: &impl Fn(&[u8])) {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 2_000, ..Config::default() };
    let result = TestRunner::new_with_rng(config, random).run(&mutate::inputs(seeds, tokens), |input| {
        let run = std::panic::AssertUnwindSafe(|| target(&input));
        std::panic::catch_unwind(run).map_err(|panic| TestCaseError::fail(said(&*panic)))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, input)) => {
            panic!("seed {seed}: {reason}\nthe input, as text: {:?}\nas bytes: {input:?}", lossy(&input));
        }
        Err(TestError::Abort(reason)) => panic!("no inputs can be made: {reason}"),
    }
}

fn lossy(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

/// A seed that no run had before.
fn new_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

/// Each line of a file of seeds that is no comment.
fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.as_bytes().to_vec()).collect()
}
