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

/// Why a piece of content is not what it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentFault {
    /// An image of something else.
    #[error("an image whose `media_type` is not that of one, such as image/png")]
    Image,
    /// A sound of something else.
    #[error("a sound whose `media_type` is not that of one, such as audio/wav")]
    Audio,
    /// A file that is not in the workspace.
    #[error("a file whose `path` does not lie below /workspace")]
    File,
}

/// The longest media type, in bytes.
const LONGEST_MEDIA_TYPE: usize = 128;

impl Content {
    /// The piece, if it may come from outside: an image or sound has a media type of its kind, and a file's path lies below the workspace.
    /// A leading `/workspace/` is understood and left out.
    ///
    /// # Errors
    /// What it is instead.
    // THREAT[T-box-escape-files]: whoever opens the path later must not be led outside.
    pub fn checked(self) -> Result<Self, ContentFault> {
        match self {
            Self::Image { media_type, .. } if !is_media_type(&media_type, "image/") => Err(ContentFault::Image),
            Self::Audio { media_type, .. } if !is_media_type(&media_type, "audio/") => Err(ContentFault::Audio),
            Self::File { path } => match below_workspace(&path) {
                Some(path) => Ok(Self::File { path: path.to_owned() }),
                None => Err(ContentFault::File),
            },
            fits => Ok(fits),
        }
    }

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

fn is_media_type(text: &str, kind: &str) -> bool {
    let has_kind = text
        .get(..kind.len())
        .is_some_and(|lead| lead.eq_ignore_ascii_case(kind));
    has_kind
        && (kind.len() + 1..=LONGEST_MEDIA_TYPE).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
}

fn below_workspace(path: &str) -> Option<&str> {
    let below = path.strip_prefix("/workspace/").unwrap_or(path);
    let fits = !below.is_empty()
        && !below.starts_with('/')
        && !below.contains(['\\', '\0'])
        && below.split('/').all(|part| !matches!(part, "" | "." | ".."));
    fits.then_some(below)
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
    fn an_image_or_sound_has_a_media_type_of_its_kind() {
        let image = |media_type: &str| Content::Image {
            media_type: media_type.into(),
            data: vec![1],
        };
        let sound = |media_type: &str| Content::Audio {
            media_type: media_type.into(),
            data: vec![1],
        };
        for media_type in ["image/png", "IMAGE/JPEG", "image/svg+xml; charset=utf-8"] {
            assert_eq!(image(media_type).checked(), Ok(image(media_type)));
        }
        assert_eq!(sound("audio/wav").checked(), Ok(sound("audio/wav")));
        let long = format!("image/{}", "x".repeat(128));
        for media_type in [
            "",
            "png",
            "image/",
            "image",
            "text/html",
            "audio/wav",
            "image/a\nb",
            "é",
            &long,
        ] {
            assert_eq!(image(media_type).checked(), Err(ContentFault::Image), "{media_type:?}");
        }
        assert_eq!(sound("image/png").checked(), Err(ContentFault::Audio));
    }

    #[test]
    fn a_file_lies_below_the_workspace() {
        let file = |path: &str| Content::File { path: path.into() };
        assert_eq!(file("/workspace/out/a.md").checked(), Ok(file("out/a.md")));
        assert_eq!(file("out/a.md").checked(), Ok(file("out/a.md")));
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/.",
            "a\\b",
            "a\0b",
            "/workspace/",
            "/workspace/../x",
        ] {
            assert_eq!(file(path).checked(), Err(ContentFault::File), "{path:?}");
        }
    }

    #[test]
    fn an_unknown_kind_or_field_is_refused() {
        assert!(serde_json::from_str::<Content>(r#"{"type":"video","data":""}"#).is_err());
        assert!(serde_json::from_str::<Content>(r#"{"type":"text","text":"a","x":1}"#).is_err());
    }
}
