//! The short variant of fuzzing: every seed, and a fixed number of mutations of each target's seeds, always the same.
//! What a long run found is kept among the seeds.

#![allow(clippy::expect_used, reason = "tests fail by panicking")]

use fumehood_fuzz::{TARGETS, Target};

fn short(name: &str) {
    let target: &Target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let seeds = (target.seeds)();
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..target.short {
        let input = random.mutated(&seeds);
        (target.run)(&input);
    }
}

/// xorshift64*: the same inputs in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).expect("48 bits") % end.max(1)
    }

    /// A seed after one to four changes.
    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            self.change(&mut input, seeds);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        const TELLING: &[u8] = b"\0\t\r\n \"%&*./:@[\\]{}\xc3\xff019aZ";
        let at = self.below(input.len() + 1);
        match self.below(6) {
            0 => input.truncate(at),
            1 => input.insert(at, TELLING[self.below(TELLING.len())]),
            2 if at < input.len() => {
                input.remove(at);
            }
            3 if at < input.len() => input[at] ^= 1 << self.below(8),
            4 if at < input.len() => {
                let end = (at + self.below(16)).min(input.len());
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let other = &seeds[self.below(seeds.len())];
                let (from, length) = (self.below(other.len() + 1), self.below(32));
                let piece = other[from..(from + length).min(other.len())].to_vec();
                input.splice(at..at, piece);
            }
        }
    }
}

#[test]
fn rules_and_urls_keep_their_meaning() {
    short("rules");
}

#[test]
fn manifests_and_grants_keep_their_meaning() {
    short("manifest");
}

#[test]
fn any_bytes_are_a_component_or_refused() {
    short("install");
}

#[test]
fn a_stream_is_redacted_as_one_text() {
    short("leak_guard");
}

#[test]
fn a_tool_gets_one_request_out_or_none() {
    short("http_request");
}

#[test]
fn any_answer_ends_without_the_secret() {
    short("http_answer");
}
