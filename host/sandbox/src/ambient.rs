//! Time and chance for guests where the host decides about them: the engine's interfaces, answered by [`Ambient`].

use crate::{
    ports::{Ambient, Ports},
    state::CallState,
    witness::Witness,
};
use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use rand_core::TryRng;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::time::Instant;
use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtxBuilder,
    clocks::{WallClock, WasiClocksCtxView},
    p2::{
        DynPollable, Pollable,
        bindings::clocks::monotonic_clock::{self, Host as _},
        subscribe,
    },
};

/// Gives a guest the time and the chance that its ports have for it, if they have; and has them counted, if somebody explains the call.
pub(crate) fn provide(wasi: &mut WasiCtxBuilder, ports: &Ports) {
    let seed = ports.ambient.as_ref().map(|ambient| ambient.seed());
    if let (Some(ambient), Some(seed)) = (&ports.ambient, &seed) {
        let mut hash_seed = [0; 16];
        Seeded::new(seed, Purpose::Hashing).fill(&mut hash_seed);
        wasi.wall_clock(Clock(Arc::clone(ambient)))
            .monotonic_clock(Clock(Arc::clone(ambient)))
            .secure_random(Seeded::new(seed, Purpose::Secure))
            .insecure_random(Seeded::new(seed, Purpose::Insecure))
            .insecure_random_seed(u128::from_le_bytes(hash_seed));
    }
    if let Some(witness) = &ports.witness {
        count(wasi, witness, ports.ambient.as_ref(), seed);
    }
}

/// Has readings of the wall clock and random bytes counted. The monotonic clock counts itself.
fn count(
    wasi: &mut WasiCtxBuilder,
    witness: &Arc<Witness>,
    ambient: Option<&Arc<dyn Ambient>>,
    seed: Option<[u8; 32]>,
) {
    let clock: Box<dyn HostWallClock + Send> = match ambient {
        Some(ambient) => Box::new(Clock(Arc::clone(ambient))),
        None => Box::new(WallClock::new()),
    };
    wasi.wall_clock(Counted::new(clock, witness));
    let seed = seed.or_else(|| {
        let mut fresh = [0; 32];
        aws_lc_rs::rand::fill(&mut fresh).ok().map(|()| fresh)
    });
    // Without one the system's generator stays, and is not counted.
    if let Some(seed) = seed {
        let counted = |purpose| Counted::new(Seeded::new(&seed, purpose), witness);
        wasi.secure_random(counted(Purpose::Secure))
            .insecure_random(counted(Purpose::Insecure));
    }
}

/// Links the monotonic clock of the engine, whose waits move the clocks of a guest that has [`Ambient`] ones.
pub(crate) fn add_to_linker(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    monotonic_clock::add_to_linker::<_, ClocksData>(linker, CallState::clocks_view)
}

struct ClocksData;

impl HasData for ClocksData {
    type Data<'a> = ClocksView<'a>;
}

/// The clocks of one call.
pub(crate) struct ClocksView<'a> {
    pub(crate) wasi: WasiClocksCtxView<'a>,
    pub(crate) ambient: Option<&'a Arc<dyn Ambient>>,
    pub(crate) witness: Option<&'a Arc<Witness>>,
}

impl ClocksView<'_> {
    /// Ready after so long; where a clock has to be moved for that, at `then`.
    fn wait(&mut self, wait: Duration, then: Option<u64>) -> wasmtime::Result<Resource<DynPollable>> {
        let deadline = Instant::now().checked_add(wait).filter(|_| !wait.is_zero());
        let (Some(ambient), Some(monotonic), Some(deadline)) = (self.ambient, then, deadline) else {
            let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
            return self.wasi.subscribe_duration(nanos);
        };
        let wait = self.wasi.table.push(Wait {
            deadline,
            ambient: Arc::clone(ambient),
            monotonic,
        })?;
        subscribe(self.wasi.table, wait)
    }
}

impl monotonic_clock::Host for ClocksView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        if let Some(witness) = self.witness {
            witness.read_clock();
        }
        self.wasi.now()
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.wasi.resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        if let Some(witness) = self.witness {
            witness.waits();
        }
        if self.ambient.is_none() {
            return self.wasi.subscribe_instant(when);
        }
        let now = self.wasi.now()?;
        let moves = self.ambient.and_then(|ambient| ambient.after(Duration::ZERO)).is_some();
        self.wait(Duration::from_nanos(when.saturating_sub(now)), moves.then_some(when))
    }

    fn subscribe_duration(&mut self, wait: u64) -> wasmtime::Result<Resource<DynPollable>> {
        if let Some(witness) = self.witness {
            witness.waits();
        }
        let wait = Duration::from_nanos(wait);
        let then = self.ambient.and_then(|ambient| ambient.after(wait));
        self.wait(wait, then)
    }
}

/// A wait that moves the clocks when it is over.
struct Wait {
    deadline: Instant,
    ambient: Arc<dyn Ambient>,
    monotonic: u64,
}

#[async_trait]
impl Pollable for Wait {
    async fn ready(&mut self) {
        tokio::time::sleep_until(self.deadline).await;
        self.ambient.reached(self.monotonic);
    }
}

struct Clock(Arc<dyn Ambient>);

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.0.wall_clock()
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.0.monotonic_clock()
    }
}

/// Something whose uses are counted.
struct Counted<T> {
    counted: T,
    witness: Arc<Witness>,
}

impl<T> Counted<T> {
    fn new(counted: T, witness: &Arc<Witness>) -> Self {
        Self {
            counted,
            witness: Arc::clone(witness),
        }
    }
}

impl HostWallClock for Counted<Box<dyn HostWallClock + Send>> {
    fn resolution(&self) -> Duration {
        self.counted.resolution()
    }

    fn now(&self) -> Duration {
        self.witness.read_clock();
        self.counted.now()
    }
}

impl TryRng for Counted<Seeded> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.witness.drew(4);
        self.counted.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.witness.drew(8);
        self.counted.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.witness.drew(bytes.len());
        self.counted.try_fill_bytes(bytes)
    }
}

/// Which of a guest's generators it is: what one gives says nothing of what another does.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Secure = 0,
    Insecure = 1,
    Hashing = 2,
}

/// SHA-256 of the seed and a counter, block after block: the same seed gives the same bytes on every machine, and without the seed
/// they can't be told from chance.
struct Seeded {
    /// The seed and the purpose.
    begun: Context,
    counter: u64,
    block: [u8; 32],
    used: usize,
}

impl Seeded {
    fn new(seed: &[u8; 32], purpose: Purpose) -> Self {
        let mut begun = Context::new(&SHA256);
        begun.update(seed);
        begun.update(&[purpose as u8]);
        Self {
            begun,
            counter: 0,
            block: [0; 32],
            used: 32,
        }
    }

    fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.used == self.block.len() {
                let mut next = self.begun.clone();
                next.update(&self.counter.to_le_bytes());
                self.block.copy_from_slice(next.finish().as_ref());
                self.counter = self.counter.wrapping_add(1);
                self.used = 0;
            }
            let count = bytes.len().min(self.block.len() - self.used);
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(&self.block[self.used..self.used + count]);
            self.used += count;
            bytes = later;
        }
    }
}

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u8, purpose: Purpose, pieces: &[usize]) -> Vec<u8> {
        let mut generator = Seeded::new(&[seed; 32], purpose);
        let mut all = Vec::new();
        for size in pieces {
            let mut piece = vec![0; *size];
            generator.fill(&mut piece);
            all.extend(piece);
        }
        all
    }

    #[test]
    fn a_seed_gives_the_same_bytes_however_they_are_asked_for() {
        let all = bytes(1, Purpose::Secure, &[100]);
        assert_eq!(bytes(1, Purpose::Secure, &[1, 31, 32, 0, 36]), all);
        assert_ne!(all[..32], all[32..64], "a block is not given twice");
    }

    #[test]
    fn another_seed_or_purpose_gives_other_bytes() {
        let all = bytes(1, Purpose::Secure, &[32]);
        assert_ne!(bytes(2, Purpose::Secure, &[32]), all);
        assert_ne!(bytes(1, Purpose::Insecure, &[32]), all);
        assert_ne!(bytes(1, Purpose::Hashing, &[32]), all);
    }

    #[test]
    fn what_a_seed_gives_does_not_change_from_one_version_to_the_next() {
        let seed = [7; 32];
        let mut first = Context::new(&SHA256);
        first.update(&seed);
        first.update(&[0]);
        first.update(&0_u64.to_le_bytes());
        assert_eq!(bytes(7, Purpose::Secure, &[32]), first.finish().as_ref());
    }
}
