//! Pictures and sound for a model that takes none, or not these: a text stands for each.
//!
//! A conversation keeps its media: without this, one that a provider refuses would make every further request of its session
//! invalid, too.

use crate::{error::ModelErrorKind, request::ModelRequest, wire::fault::Fault};
use fumehood_core::{content::Content, message::Message};
use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

/// What is known of a model's media. Remembered for the provider's life.
#[derive(Debug, Default)]
pub(crate) struct Media {
    takes_none: AtomicBool,
}

impl Media {
    /// The request as this model takes it, as far as that is known.
    pub(crate) fn fit<'a>(&self, request: &'a ModelRequest) -> Cow<'a, ModelRequest> {
        if self.takes_none.load(Relaxed) && has_media(request) {
            Cow::Owned(described(request))
        } else {
            Cow::Borrowed(request)
        }
    }

    /// The request to send instead of one that was refused, if its media may be what it was refused for. Where the provider says
    /// that the model takes none, later ones go without from the start; a picture that is damaged or too large says nothing of
    /// the next one.
    pub(crate) fn instead_of(&self, sent: &ModelRequest, kind: &ModelErrorKind, fault: &Fault) -> Option<ModelRequest> {
        let blamed = match kind {
            ModelErrorKind::RequestTooLarge => true,
            ModelErrorKind::InvalidRequest => fault.names_media(),
            // Servers of local models answer 500, routers 404.
            ModelErrorKind::Unavailable { .. } | ModelErrorKind::UnknownModel => fault.refuses_all_media(),
            _ => false,
        };
        if !blamed || !has_media(sent) {
            return None;
        }
        if fault.refuses_all_media() {
            self.takes_none.store(true, Relaxed);
        }
        Some(described(sent))
    }
}

fn is_media(content: &Content) -> bool {
    matches!(content, Content::Image { .. } | Content::Audio { .. })
}

fn has_media(request: &ModelRequest) -> bool {
    request.messages.iter().any(|message| match message {
        Message::User { content } => content.iter().any(is_media),
        Message::Tool { result: Ok(output), .. } => output.content.iter().any(is_media),
        _ => false,
    })
}

fn described(request: &ModelRequest) -> ModelRequest {
    let mut request = request.clone();
    for message in Arc::make_mut(&mut request.messages) {
        match message {
            Message::User { content } => describe(content),
            Message::Tool { result: Ok(output), .. } => describe(&mut output.content),
            _ => {}
        }
    }
    request
}

fn describe(content: &mut [Content]) {
    for piece in content.iter_mut().filter(|piece| is_media(piece)) {
        *piece = Content::text(format!("{}, which you can not be shown", piece.as_plain_text()));
    }
}
