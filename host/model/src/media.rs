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

/// Which kinds of media something is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MediaKinds {
    Images,
    Audio,
    All,
}

impl MediaKinds {
    const fn images(self) -> bool {
        matches!(self, Self::Images | Self::All)
    }

    const fn audio(self) -> bool {
        matches!(self, Self::Audio | Self::All)
    }

    const fn has(self, content: &Content) -> bool {
        match content {
            Content::Image { .. } => self.images(),
            Content::Audio { .. } => self.audio(),
            _ => false,
        }
    }
}

/// What is known of a model's media. Remembered for the provider's life.
#[derive(Debug, Default)]
pub(crate) struct Media {
    takes_no_images: AtomicBool,
    takes_no_audio: AtomicBool,
}

impl Media {
    /// The request as this model takes it, as far as that is known.
    pub(crate) fn fit<'a>(&self, request: &'a ModelRequest) -> Cow<'a, ModelRequest> {
        match self.refused() {
            Some(kinds) if has_media(request, kinds) => Cow::Owned(described(request, kinds)),
            _ => Cow::Borrowed(request),
        }
    }

    fn refused(&self) -> Option<MediaKinds> {
        match (self.takes_no_images.load(Relaxed), self.takes_no_audio.load(Relaxed)) {
            (true, true) => Some(MediaKinds::All),
            (true, false) => Some(MediaKinds::Images),
            (false, true) => Some(MediaKinds::Audio),
            (false, false) => None,
        }
    }

    /// The request to send instead of one that was refused, if its media may be what it was refused for. Where the provider says
    /// that the model takes none of a kind, later ones go without it from the start; a picture that is damaged, too large or of a
    /// format that the model does not know says nothing of the next one.
    pub(crate) fn instead_of(&self, sent: &ModelRequest, kind: &ModelErrorKind, fault: &Fault) -> Option<ModelRequest> {
        let refused = fault.refused_media();
        let blamed = match kind {
            ModelErrorKind::RequestTooLarge => Some(MediaKinds::All),
            ModelErrorKind::InvalidRequest => fault.names_media(),
            // Servers of local models answer 500, routers 404.
            ModelErrorKind::Unavailable { .. } | ModelErrorKind::UnknownModel => refused,
            _ => None,
        };
        let kinds = blamed.filter(|kinds| has_media(sent, *kinds))?;
        if let Some(refused) = refused {
            self.takes_no_images.fetch_or(refused.images(), Relaxed);
            self.takes_no_audio.fetch_or(refused.audio(), Relaxed);
        }
        Some(described(sent, kinds))
    }
}

fn has_media(request: &ModelRequest, kinds: MediaKinds) -> bool {
    let has = |content: &[Content]| content.iter().any(|piece| kinds.has(piece));
    request.messages.iter().any(|message| match message {
        Message::User { content } => has(content),
        Message::Tool { result: Ok(output), .. } => has(&output.content),
        _ => false,
    })
}

fn described(request: &ModelRequest, kinds: MediaKinds) -> ModelRequest {
    let mut request = request.clone();
    for message in Arc::make_mut(&mut request.messages) {
        match message {
            Message::User { content } => describe(content, kinds),
            Message::Tool { result: Ok(output), .. } => describe(&mut output.content, kinds),
            _ => {}
        }
    }
    request
}

fn describe(content: &mut [Content], kinds: MediaKinds) {
    for piece in content.iter_mut().filter(|piece| kinds.has(piece)) {
        *piece = Content::text(format!("{}, which you can not be shown", piece.as_plain_text()));
    }
}
