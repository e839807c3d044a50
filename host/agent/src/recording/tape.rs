//! One call's recording while it is made.

use super::{Answered, Asked, Blob, BodyEnd, Exchange, FilesSeen, HttpResponse, Piece, Recording, Summary, VERSION};
use fumehood_core::{
    call::{Arguments, CallErrorCode, CallResult, TrapKind},
    digest::Digest,
    event::EventBody,
    id::CallId,
    name::ToolName,
};
use fumehood_egress::LeakGuard;
use fumehood_sandbox::ports::Ambient;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// What a reading of a clock takes.
const READING: u64 = 20;
/// What a question takes beside its texts.
const QUESTION: u64 = 200;
/// What a piece of a body takes besides its bytes.
const PIECE: u64 = 64;

/// Takes down what one call is answered. Shared by the call's ports; every method returns at once.
pub(crate) struct Tape {
    most: u64,
    seed: [u8; 32],
    begun: Instant,
    /// Whether other calls run at the same time on the same files.
    shared: bool,
    bodies: Bodies,
    state: Mutex<State>,
}

/// What is kept of the bodies of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bodies {
    /// What they are compared by.
    Digests,
    /// All of them.
    Whole,
}

#[derive(Default)]
struct State {
    size: u64,
    deadline_ms: Option<u64>,
    wall_clock: Vec<u64>,
    monotonic_clock: Vec<u64>,
    exchanges: Vec<Exchange>,
    /// The bodies of requests, where they are kept: by the question, as far as they were sent.
    bodies: Sent,
    /// Why it is given up.
    spoilt: Option<String>,
    outcome: Option<Outcome>,
}

/// What became of a recording.
enum Outcome {
    Kept { digest: Digest, bytes: u64 },
    Missing(String),
}

/// What is known when the call has ended.
pub(crate) struct Whole {
    pub(crate) tool: ToolName,
    pub(crate) arguments: Arguments,
    pub(crate) locale: Option<String>,
    pub(crate) env: Vec<(String, String)>,
    /// Before and after.
    pub(crate) files: Option<(Digest, Option<Digest>)>,
    pub(crate) result: CallResult,
}

/// Which question an answer belongs to.
pub(crate) type Place = usize;

/// The bodies of requests, as far as they were sent.
pub(super) type Sent = BTreeMap<Place, Vec<u8>>;

impl Tape {
    /// An empty one that may take `most` bytes.
    pub(crate) fn new(most: u64, shared: bool) -> Self {
        Self::keeping(Bodies::Digests, most, shared)
    }

    /// The same, with this much of the bodies of requests.
    pub(super) fn keeping(bodies: Bodies, most: u64, shared: bool) -> Self {
        let mut seed = [0; 32];
        let state = State {
            spoilt: getrandom::fill(&mut seed)
                .err()
                .map(|_| "the system gave no random bytes to begin with".to_owned()),
            ..State::default()
        };
        Self {
            most,
            seed,
            begun: Instant::now(),
            shared,
            bodies,
            state: Mutex::new(state),
        }
    }

    /// A question, before it is answered.
    pub(super) fn ask(&self, asked: Asked) -> Place {
        let mut state = self.lock();
        let place = state.exchanges.len();
        self.charge(&mut state, QUESTION + asked.to_string().len() as u64);
        if state.spoilt.is_none() {
            state.exchanges.push(Exchange {
                asked,
                answered: Answered::Nothing,
            });
        }
        place
    }

    /// Its answer, which has so many bytes of its own.
    pub(super) fn answer(&self, place: Place, bytes: usize, answered: Answered) {
        let mut state = self.lock();
        self.charge(&mut state, bytes as u64);
        if let Some(exchange) = state.exchanges.get_mut(place) {
            exchange.answered = answered;
        }
    }

    /// A piece of the body of a request.
    pub(super) fn sending(&self, place: Place, piece: &[u8]) {
        if self.bodies == Bodies::Whole {
            let mut state = self.lock();
            self.charge(&mut state, piece.len() as u64);
            if state.spoilt.is_none() {
                state.bodies.entry(place).or_default().extend_from_slice(piece);
            }
        }
    }

    /// All questions and their answers, and the bodies of requests; nothing where it was given up. Leaves it empty.
    pub(super) fn take(&self) -> Option<(Vec<Exchange>, Sent)> {
        let state = std::mem::take(&mut *self.lock());
        state.spoilt.is_none().then_some((state.exchanges, state.bodies))
    }

    /// The body of a request, sent to its end.
    pub(super) fn sent(&self, place: Place, sent: Summary) {
        if let Some(Exchange {
            asked: Asked::Http(request),
            ..
        }) = self.lock().exchanges.get_mut(place)
        {
            request.body = Some(sent);
        }
    }

    /// A piece of the body of a response.
    pub(super) fn piece(&self, place: Place, bytes: usize, piece: Piece) {
        let mut state = self.lock();
        self.charge(&mut state, PIECE + bytes as u64);
        if let Some(response) = response(&mut state, place) {
            response.body.push(piece);
        }
    }

    /// The end of the body of a response.
    pub(super) fn ends(&self, place: Place, end: BodyEnd) {
        if let Some(response) = response(&mut self.lock(), place) {
            response.end = end;
        }
    }

    /// The recording as it is to be kept; none if it was given up, which [`Tape::event`] tells then.
    // THREAT[T-sec-recording]: what would hold a value is not kept, wherever it came from.
    pub(crate) fn finish(&self, whole: Whole, guard: &LeakGuard) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let made = match state.spoilt.take().or_else(|| unrepeatable(&whole.result)) {
            Some(why) => Err(why),
            None => self.write(std::mem::take(&mut *state), whole, guard),
        };
        match made {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                state.exchanges.clear();
                state.outcome = Some(Outcome::Missing(why));
                None
            }
        }
    }

    fn write(&self, state: State, whole: Whole, guard: &LeakGuard) -> Result<Vec<u8>, String> {
        if !guard.is_empty() && state.exchanges.iter().any(|exchange| holds_value(exchange, guard)) {
            return Err(HOLDS_A_VALUE.to_owned());
        }
        // A tool that was called changes files that nobody changes in a replay.
        let shared = self.shared
            || state
                .exchanges
                .iter()
                .any(|exchange| matches!(exchange.asked, Asked::Peer { .. }));
        let recording = Recording {
            version: VERSION,
            tool: whole.tool,
            arguments: whole.arguments,
            locale: whole.locale,
            deadline_ms: state.deadline_ms,
            seed: hex::encode(self.seed),
            wall_clock: state.wall_clock,
            monotonic_clock: state.monotonic_clock,
            env: whole.env,
            exchanges: state.exchanges,
            files: whole.files.map(|(before, after)| FilesSeen { before, after, shared }),
            result: whole.result,
        };
        let bytes = serde_json::to_vec(&recording).map_err(|error| format!("it can't be written: {error}"))?;
        if bytes.len() as u64 > self.most {
            return Err(self.too_large());
        }
        if guard.find(&bytes).is_some() {
            return Err(HOLDS_A_VALUE.to_owned());
        }
        Ok(bytes)
    }

    /// It is kept.
    pub(crate) fn kept(&self, digest: Digest, bytes: u64) {
        self.lock().outcome = Some(Outcome::Kept { digest, bytes });
    }

    /// It could not be kept.
    pub(crate) fn lost(&self, why: String) {
        self.lock().outcome = Some(Outcome::Missing(why));
    }

    /// What is to be said of it. None where the call did not come as far as its component.
    pub(crate) fn event(&self, call: CallId) -> Option<EventBody> {
        let (recording, bytes, missing) = match self.lock().outcome.take()? {
            Outcome::Kept { digest, bytes } => (Some(digest), bytes, None),
            Outcome::Missing(why) => (None, 0, Some(why)),
        };
        Some(EventBody::ToolRecorded {
            call,
            recording,
            bytes,
            missing,
        })
    }

    /// The call is handed on to somebody outside: what is taken down goes. The ticket that ends the call could be in it, and what comes
    /// of the call is not its component's to say any more.
    pub(super) fn handed_on(&self) {
        let mut state = self.lock();
        *state = State {
            size: state.size,
            spoilt: Some("the call was handed on to somebody outside, or was to be".to_owned()),
            ..State::default()
        };
    }

    // THREAT[T-box-host-memory]: what is too much is not held.
    fn charge(&self, state: &mut State, bytes: u64) {
        state.size = state.size.saturating_add(bytes);
        if state.size > self.most && state.spoilt.is_none() {
            *state = State {
                size: state.size,
                spoilt: Some(self.too_large()),
                ..State::default()
            };
        }
    }

    fn too_large(&self) -> String {
        format!(
            "it is larger than {} bytes, as much as is kept of a call; raise `bytes` in `[recordings]`",
            self.most
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ambient for Tape {
    fn wall_clock(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut state = self.lock();
        self.charge(&mut state, READING);
        if state.spoilt.is_none() {
            state.wall_clock.push(nanos(now));
        }
        now
    }

    fn monotonic_clock(&self) -> u64 {
        let now = nanos(self.begun.elapsed());
        let mut state = self.lock();
        self.charge(&mut state, READING);
        if state.spoilt.is_none() {
            state.monotonic_clock.push(now);
        }
        now
    }

    fn seed(&self) -> [u8; 32] {
        self.seed
    }

    fn deadline_ms(&self, own: u64) -> u64 {
        self.lock().deadline_ms = Some(own);
        own
    }
}

const HOLDS_A_VALUE: &str = "it would hold the value of a secret";

fn response(state: &mut State, place: Place) -> Option<&mut HttpResponse> {
    match &mut state.exchanges.get_mut(place)?.answered {
        Answered::Http(Ok(response)) => Some(response),
        _ => None,
    }
}

/// Why a call with this end can't be made again with the same end.
fn unrepeatable(result: &CallResult) -> Option<String> {
    let error = result.as_ref().err()?;
    let by_time = matches!(
        error.code,
        CallErrorCode::Timeout | CallErrorCode::Cancelled | CallErrorCode::Interrupted
    );
    (by_time || error.trap == Some(TrapKind::Cpu)).then(|| {
        let code = error.status();
        format!("the call was ended by time, which a replay does not have again ({code:?})").to_lowercase()
    })
}

/// Whether something in it is the value of a secret that the written form would hide: bytes that are no text, or a body in pieces.
fn holds_value(exchange: &Exchange, guard: &LeakGuard) -> bool {
    let found = |Blob(bytes): &Blob| guard.find(bytes).is_some();
    match &exchange.answered {
        Answered::Http(Ok(response)) => {
            let mut whole = Vec::new();
            for piece in &response.body {
                if let Piece::Data(Blob(bytes)) = piece {
                    whole.extend_from_slice(bytes);
                }
            }
            guard.find(&whole).is_some() || response.headers.iter().any(|(_, value)| found(value))
        }
        Answered::Value(Ok(Some(value))) | Answered::Signed(Ok(value)) => found(value),
        _ => false,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
