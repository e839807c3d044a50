//! What a tool returns.

use crate::{Failure, bindings::fumehood::tool::types as wit};
use serde::Serialize;

/// One piece of a result.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// Plain text.
    Text(String),
    /// JSON text of any value; see [`Content::json`].
    Json(String),
    /// An image.
    Image {
        /// For example `image/png`.
        media_type: String,
        /// The bytes themselves.
        data: Vec<u8>,
    },
    /// A sound.
    Audio {
        /// For example `audio/wav`.
        media_type: String,
        /// The bytes themselves.
        data: Vec<u8>,
    },
    /// A file of the session's workspace, by its path below `/workspace`.
    File(String),
}

impl Content {
    /// Plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A value as JSON.
    ///
    /// # Errors
    /// When the value cannot be written as JSON, such as a map whose keys are not texts.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, Failure> {
        Ok(Self::Json(serde_json::to_string(value)?))
    }
}

impl<T: Into<String>> From<T> for Content {
    fn from(text: T) -> Self {
        Self::text(text)
    }
}

/// What a tool returns when it wants to say more than one value can.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// For the model and for people, in order.
    pub content: Vec<Content>,
    /// For programs: JSON text of an object.
    pub structured: Option<String>,
    /// The tool ran, and what it was asked to do did not work; `content` says why.
    pub is_error: bool,
}

impl Output {
    /// A result of one piece.
    pub fn new(content: impl Into<Content>) -> Self {
        Self {
            content: vec![content.into()],
            ..Self::default()
        }
    }

    /// The same result with one more piece at the end.
    #[must_use]
    pub fn and(mut self, content: impl Into<Content>) -> Self {
        self.content.push(content.into());
        self
    }

    /// The same result with a value for programs, which must be an object in JSON.
    ///
    /// # Errors
    /// When the value cannot be written as JSON.
    pub fn with_structured<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, Failure> {
        self.structured = Some(serde_json::to_string(value)?);
        Ok(self)
    }

    /// The same result, marked as an error.
    #[must_use]
    pub fn as_error(mut self) -> Self {
        self.is_error = true;
        self
    }

    /// What a reader of plain text sees: texts and JSON, one piece per line.
    #[must_use]
    pub fn text(&self) -> String {
        let pieces = self.content.iter().map(|piece| match piece {
            Content::Text(text) | Content::Json(text) => text.clone(),
            Content::Image { media_type, data } | Content::Audio { media_type, data } => {
                format!("[{media_type}, {} bytes]", data.len())
            }
            Content::File(path) => format!("[file {path}]"),
        });
        pieces.collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn from_wit(output: wit::Output) -> Self {
        let wit::Output {
            content,
            structured,
            is_error,
        } = output;
        let content = content.into_iter().map(|piece| match piece {
            wit::Content::Text(text) => Content::Text(text),
            wit::Content::Json(text) => Content::Json(text),
            wit::Content::Image(wit::Blob { media_type, data }) => Content::Image { media_type, data },
            wit::Content::Audio(wit::Blob { media_type, data }) => Content::Audio { media_type, data },
            wit::Content::File(path) => Content::File(path),
        });
        Self {
            content: content.collect(),
            structured,
            is_error,
        }
    }
}

impl From<Output> for wit::Output {
    fn from(output: Output) -> Self {
        let Output {
            content,
            structured,
            is_error,
        } = output;
        let content = content.into_iter().map(|piece| match piece {
            Content::Text(text) => wit::Content::Text(text),
            Content::Json(text) => wit::Content::Json(text),
            Content::Image { media_type, data } => wit::Content::Image(wit::Blob { media_type, data }),
            Content::Audio { media_type, data } => wit::Content::Audio(wit::Blob { media_type, data }),
            Content::File(path) => wit::Content::File(path),
        });
        Self {
            content: content.collect(),
            structured,
            is_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_survives_the_boundary() {
        let mut output = Output::new("hello").and(Content::File("a.txt".into())).as_error();
        output.content.push(Content::Image {
            media_type: "image/png".into(),
            data: vec![0, 255],
        });
        output.content.push(Content::Audio {
            media_type: "audio/wav".into(),
            data: vec![1],
        });
        let output = output
            .and(Content::json(&[1, 2]).unwrap())
            .with_structured(&serde_json::json!({"a": 1}))
            .unwrap();
        assert_eq!(Output::from_wit(output.clone().into()), output);
        assert_eq!(
            output.text(),
            "hello\n[file a.txt]\n[image/png, 2 bytes]\n[audio/wav, 1 bytes]\n[1,2]"
        );
    }
}
