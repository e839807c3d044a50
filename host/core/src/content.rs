//! Content: what people, models and tools exchange. The kinds are those of the tool contract and of MCP.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One piece of content. JSON: `{"type": "text", "text": "…"}` and so on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A JSON value.
    Json {
        /// The value.
        json: Value,
    },
    /// An image.
    Image {
        /// For example `image/png`.
        media_type: String,
        /// The bytes; base64 in JSON.
        #[serde(with = "base64_bytes")]
        data: Vec<u8>,
    },
    /// A sound.
    Audio {
        /// For example `audio/wav`.
        media_type: String,
        /// The bytes; base64 in JSON.
        #[serde(with = "base64_bytes")]
        data: Vec<u8>,
    },
    /// A file of the session's workspace.
    File {
        /// Path below `/workspace`, without it.
        path: String,
    },
}

impl Content {
    /// A text piece.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text { text: text.into() }
    }

    /// What a reader of plain text sees of this piece.
    #[must_use]
    pub fn as_plain_text(&self) -> String {
        match self {
            Self::Text { text } => text.clone(),
            Self::Json { json } => json.to_string(),
            Self::Image { media_type, data } | Self::Audio { media_type, data } => {
                format!("[{media_type}, {} bytes]", data.len())
            }
            Self::File { path } => format!("[file {path}]"),
        }
    }

    /// How many bytes of payload this piece carries; what output limits count.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        match self {
            Self::Text { text } => text.len(),
            Self::Json { json } => json.to_string().len(),
            Self::Image { data, .. } | Self::Audio { data, .. } => data.len(),
            Self::File { path } => path.len(),
        }
    }
}

/// The plain text of several pieces, one per line.
#[must_use]
pub fn plain_text(content: &[Content]) -> String {
    content
        .iter()
        .map(Content::as_plain_text)
        .collect::<Vec<_>>()
        .join("\n")
}

mod base64_bytes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        STANDARD.decode(&*text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_keeps_its_wire_form() {
        let pieces = vec![
            Content::text("hi"),
            Content::Image {
                media_type: "image/png".into(),
                data: vec![0, 255],
            },
            Content::File {
                path: "out/report.md".into(),
            },
        ];
        let wire = serde_json::to_string(&pieces).unwrap();
        assert_eq!(
            wire,
            r#"[{"type":"text","text":"hi"},{"type":"image","media_type":"image/png","data":"AP8="},{"type":"file","path":"out/report.md"}]"#
        );
        assert_eq!(serde_json::from_str::<Vec<Content>>(&wire).unwrap(), pieces);
    }

    #[test]
    fn an_unknown_kind_or_field_is_refused() {
        assert!(serde_json::from_str::<Content>(r#"{"type":"video","data":""}"#).is_err());
        assert!(serde_json::from_str::<Content>(r#"{"type":"text","text":"a","x":1}"#).is_err());
    }
}
