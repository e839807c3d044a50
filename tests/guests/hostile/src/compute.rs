//! Using up what a computation can use up, and looking at what surrounds it.

use fumehood::{Call, Failure};
use std::{
    collections::HashMap,
    hint::black_box,
    io::Read as _,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

/// Loops without end.
#[fumehood::tool(effect = "pure", read_only)]
pub fn spin() -> String {
    let mut n: u64 = 0;
    loop {
        n = black_box(n.wrapping_add(1));
        if black_box(false) {
            return n.to_string();
        }
    }
}

/// Takes memory and touches every page of it.
#[fumehood::tool(effect = "pure", read_only)]
pub fn allocate(
    /// How much, in MiB.
    mib: u32,
) -> String {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for _ in 0..mib {
        let mut piece = vec![1_u8; 1 << 20];
        for page in piece.chunks_mut(4096) {
            page[0] = black_box(7);
        }
        pieces.push(black_box(piece));
    }
    format!("took {} MiB", pieces.len())
}

/// Asks for more and more memory in growing steps until it gets no more, and says how much it got.
#[fumehood::tool(effect = "pure", read_only)]
pub fn grow_memory() -> String {
    let mut total: usize = 0;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut piece: Vec<u8> = Vec::new();
        if piece.try_reserve_exact(1 << 20).is_err() {
            return format!("got {} MiB", total >> 20);
        }
        total += piece.capacity();
        pieces.push(black_box(piece));
    }
}

/// Calls itself without end.
#[fumehood::tool(effect = "pure", read_only)]
pub fn recurse() -> String {
    deeper(0).to_string()
}

fn deeper(level: u64) -> u64 {
    let here = black_box([level; 16]);
    // The addition after the call keeps this from becoming a loop.
    deeper(black_box(level + 1)).wrapping_add(here[3])
}

/// Panics with a message.
#[fumehood::tool(effect = "pure", read_only, name = "panic")]
pub fn panic_now(
    /// The panic's message.
    message: Option<String>,
) -> String {
    panic!("{}", message.unwrap_or_else(|| "hostile panic".to_owned()))
}

/// Runs into a trap without a message.
#[fumehood::tool(effect = "pure", read_only)]
pub fn unreachable() -> String {
    std::process::abort()
}

/// Ends the process.
#[fumehood::tool(effect = "pure", read_only)]
pub fn exit(
    /// The exit code.
    code: u8,
) -> String {
    std::process::exit(i32::from(code))
}

/// Makes many trivial calls of the host.
#[fumehood::tool(effect = "pure", read_only)]
pub fn many_host_calls(
    /// How many.
    n: u64,
) -> String {
    let start = Instant::now();
    for _ in 0..n {
        black_box(Instant::now());
    }
    format!("made {n} host calls in {} us", start.elapsed().as_micros())
}

/// Sleeps.
#[fumehood::tool(effect = "pure", read_only)]
pub fn sleep(
    /// How long, in milliseconds.
    ms: u64,
) -> String {
    std::thread::sleep(Duration::from_millis(ms));
    format!("slept {ms} ms")
}

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Adds one to a variable of the component and returns it: 1 in a fresh instance.
#[fumehood::tool]
pub fn state_counter() -> String {
    (COUNTER.fetch_add(1, Ordering::Relaxed) + 1).to_string()
}

/// Returns random numbers.
#[fumehood::tool(read_only)]
pub fn random() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{:016x}", RandomState::new().hash_one(1))
}

/// Returns all environment variables.
#[fumehood::tool(effect = "pure", read_only)]
pub fn env() -> HashMap<String, String> {
    std::env::vars().collect()
}

/// Returns the command-line arguments.
#[fumehood::tool(effect = "pure", read_only)]
pub fn args() -> Vec<String> {
    std::env::args().collect()
}

/// Reads standard input to its end.
#[fumehood::tool(effect = "pure", read_only)]
pub fn stdin_read() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(format!("read {} bytes", text.len()))
}

/// Returns what the call says of itself.
#[fumehood::tool(effect = "pure", read_only)]
pub fn call_info(call: &Call) -> serde_json::Value {
    let deadline = call
        .deadline()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    serde_json::json!({
        "id": call.id(),
        "idempotency_key": call.idempotency_key(),
        "deadline_ms": u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        "time_left_ms": u64::try_from(call.time_left().as_millis()).unwrap_or(u64::MAX),
        "locale": call.locale(),
    })
}
