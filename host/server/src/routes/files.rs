//! The files of a session: read, write, delete, list, search.

use super::{own_session, own_session_in_use};
use crate::{
    app::App,
    auth::Client,
    body::{Received, read_body},
    input::{At, Limit, Query, name},
    problem::{Answer, Problem, ProblemCode},
};
use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use fumehood_agent::LeakGuard;
use fumehood_core::{Time, digest::Digest, id::SessionId};
use fumehood_store::{
    WorkspaceError, WorkspacePath, Workspaces,
    record::PageRequest,
    workspace::{
        Depth, Entry, Found, GrepRequest, Kind, ListRequest, OpenFile, Opened, Precondition, Skipped, WriteOutcome,
    },
};
use futures::stream;
use http::{HeaderMap, HeaderName, StatusCode, header};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_files))
        .routes(routes!(read_file, write_file, delete_file))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FilesQuery {
    /// List the entries; the default. Takes no value.
    list: Option<String>,
    /// Search for lines that match this regular expression (Rust syntax), at most 1000 bytes.
    grep: Option<String>,
    /// Only what is below this directory.
    directory: Option<String>,
    /// When listing: `here` for what is directly in the directory, `below` (the default) for everything under it.
    #[param(inline)]
    depth: Option<DepthName>,
    /// When searching: only files whose path matches this glob, such as `src/**/*.rs`.
    glob: Option<String>,
    /// When searching: lines to show around each match, at most 20.
    #[param(maximum = 20, default = 0)]
    context: Option<usize>,
    /// At most this many items.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<Limit>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum DepthName {
    Here,
    Below,
}

/// An entry of the workspace.
#[derive(Debug, Serialize, ToSchema)]
struct FileEntry {
    /// Relative to `/workspace`.
    path: String,
    kind: EntryKind,
    /// Bytes of a file; 0 for others.
    size: u64,
    /// When it was last written.
    #[schema(value_type = String, format = DateTime)]
    modified: Time,
}

/// What an entry is; `other` is a symbolic link or something else that can't be read as a file.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum EntryKind {
    File,
    Directory,
    Other,
}

impl FileEntry {
    // THREAT[T-sec-exfiltration]: a name is a text like any other. The cursor stays what it is.
    fn of(entry: &Entry, guard: &LeakGuard) -> Self {
        let kind = match entry.kind {
            Kind::File => EntryKind::File,
            Kind::Directory => EntryKind::Directory,
            Kind::Other => EntryKind::Other,
        };
        Self {
            path: guard.redact_str(entry.path.as_str()).into_owned(),
            kind,
            size: entry.size,
            modified: entry.modified,
        }
    }
}

/// A line that matches.
#[derive(Debug, Serialize, ToSchema)]
struct MatchedLine {
    path: String,
    /// Counts from 1.
    line: u64,
    /// The line; bytes that are not UTF-8 are shown as U+FFFD, a long line is cut.
    text: String,
    /// Lines before it, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    before: Vec<String>,
    /// Lines after it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    after: Vec<String>,
}

/// Entries, or lines that match.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum FilesAnswer {
    Entries {
        /// In order of their paths.
        items: Vec<FileEntry>,
        /// Pass it as `cursor` to get the items after these; absent on the last page.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    Lines {
        /// In order of path and line.
        items: Vec<MatchedLine>,
        /// Pass it as `cursor` to get the items after these; absent on the last page.
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
        /// Files passed over because they are large or not text.
        skipped_files: u64,
        /// As much was read as may be; narrow the glob or the directory to search the rest.
        incomplete: bool,
    },
}

/// What was written.
#[derive(Debug, Serialize, ToSchema)]
struct FileWritten {
    path: String,
    /// Bytes.
    size: u64,
    /// Send it as `If-Match` to change exactly this version.
    etag: String,
}

/// List or search the files of a session
#[utoipa::path(get, path = "/v1/sessions/{session}/files", tag = "files", params(("session" = String, Path, description = "`ses_…`"), FilesQuery),
    responses((status = 200, body = FilesAnswer, description = "A page of entries, or of lines that match")))]
async fn list_files(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(query): Query<FilesQuery>,
) -> Answer<Json<FilesAnswer>> {
    let session = own_session(&app, &client, &session).await?;
    let directory = query
        .directory
        .as_deref()
        .map(|text| name::<WorkspacePath>(text.trim_end_matches('/')))
        .transpose()?;
    let limit = Limit::or_default(query.limit);
    let Some(pattern) = query.grep else {
        if query.glob.is_some() || query.context.is_some() {
            return Err(Problem::new(
                ProblemCode::InvalidQuery,
                "`glob` and `context` go with `grep`",
            ));
        }
        let depth = match query.depth {
            Some(DepthName::Here) => Depth::Here,
            Some(DepthName::Below) | None => Depth::Below,
        };
        let request = ListRequest {
            directory,
            depth,
            page: PageRequest {
                after: query.cursor,
                limit,
            },
        };
        let page = app.host.workspaces().list(session, request).await?;
        let guard = app.host.guard(&client.org, Some(session)).await?;
        let entry = |entry: &Entry| FileEntry::of(entry, &guard);
        return Ok(Json(FilesAnswer::Entries {
            items: page.items.iter().map(entry).collect(),
            next: page.next,
        }));
    };
    if query.list.is_some() || query.depth.is_some() {
        return Err(Problem::new(
            ProblemCode::InvalidQuery,
            "`list` and `depth` do not go with `grep`",
        ));
    }
    let offset = match query.cursor.as_deref().map(str::parse) {
        None => 0,
        Some(Ok(offset)) => offset,
        Some(Err(_)) => return Err(WorkspaceError::BadCursor.into()),
    };
    let context = query.context.unwrap_or(0);
    let request = GrepRequest {
        pattern,
        glob: query.glob,
        directory,
        context,
        offset,
        limit: limit as usize,
    };
    let guard = app.host.guard(&client.org, Some(session)).await?;
    // THREAT[T-sec-exfiltration]: what is searched is what reading the file would show; a pattern can't ask for a value.
    let clean = guard.clone();
    let clean = move |bytes| clean.redact_vec(bytes);
    let found = app.host.workspaces().grep(session, request, clean).await?;
    Ok(Json(lines(found, offset, &guard)))
}

fn lines(found: Found, offset: usize, guard: &LeakGuard) -> FilesAnswer {
    let more = matches!(found.stopped, Some(Skipped::MoreMatches | Skipped::AnswerFull));
    FilesAnswer::Lines {
        next: more.then(|| offset.saturating_add(found.matches.len()).to_string()),
        items: found
            .matches
            .into_iter()
            .map(|line| MatchedLine {
                path: guard.redact_str(line.path.as_str()).into_owned(),
                line: line.number,
                text: line.text,
                before: line.before,
                after: line.after,
            })
            .collect(),
        skipped_files: found.skipped_files,
        incomplete: matches!(found.stopped, Some(Skipped::ScanLimit)),
    }
}

/// Read a file
///
/// `If-None-Match` with the file's `ETag` answers 304 without the bytes. Values of secrets in effect in the session are replaced by
/// `[secret:NAME]`; the `ETag` is of the file as it is stored.
#[utoipa::path(get, path = "/v1/sessions/{session}/files/{*path}", tag = "files",
    params(
        ("session" = String, Path, description = "`ses_…`"),
        ("path" = String, Path, description = "Relative to `/workspace`"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag`"),
    ),
    responses(
        (status = 200, description = "The bytes", body = inline(Vec<u8>), content_type = "application/octet-stream", headers(("ETag" = String, description = "The version"))),
        (status = 304, description = "It is the version that `If-None-Match` names"),
    ))]
async fn read_file(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, path)): At<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let session = own_session(&app, &client, &session).await?;
    let path = name::<WorkspacePath>(&path)?;
    let workspaces = app.host.workspaces();
    let file = workspaces.open_file(session, &path).await?;
    let file = file.ok_or_else(|| Problem::not_found("file"))?;
    let tag = tag(file.etag());
    let seen = etags(&headers, &header::IF_NONE_MATCH)?;
    let seen = seen.is_some_and(|seen| seen.matches(Some(file.etag())));
    let common = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    if seen {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    // THREAT[T-sec-exfiltration]: the tag still names the stored version, so that it can be changed by `If-Match`.
    let guard = app.host.guard(&client.org, Some(session)).await?;
    let bytes = match file {
        Opened::Whole(content) => Body::from(guard.redact_vec(content.bytes)),
        Opened::Pieces(file) => in_pieces(workspaces.clone(), file, &guard),
    };
    // Never a type that a browser would act on: the bytes may come from a tool that a stranger wrote.
    Ok((common, [(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

// THREAT[T-api-oversize]: a file is read as fast as the client takes it, and one piece of it lies in memory.
fn in_pieces(workspaces: Workspaces, file: OpenFile, guard: &LeakGuard) -> Body {
    let begin = Some((workspaces, file, guard.redactor()));
    Body::from_stream(stream::try_unfold(begin, |reading| async move {
        let Some((workspaces, file, mut redactor)) = reading else {
            return Ok::<_, WorkspaceError>(None);
        };
        let (piece, file) = workspaces.read_on(file).await?;
        Ok(Some(if piece.is_empty() {
            (redactor.finish(), None)
        } else {
            (redactor.push(piece.into()), Some((workspaces, file, redactor)))
        }))
    }))
}

/// Write a file
///
/// With the directories on its way; whole, or not at all. `If-Match` with the `ETag` that was read writes only if the file still
/// is that version; `If-None-Match: *` only if there is none.
#[utoipa::path(put, path = "/v1/sessions/{session}/files/{*path}", tag = "files",
    params(
        ("session" = String, Path, description = "`ses_…`"),
        ("path" = String, Path, description = "Relative to `/workspace`"),
        ("If-Match" = Option<String>, Header, description = "An `ETag`, or `*` for any version"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if there is no such file"),
    ),
    request_body(content = inline(Vec<u8>), content_type = "application/octet-stream", description = "The bytes, whatever their content type"),
    responses(
        (status = 200, body = FileWritten, description = "It was replaced"),
        (status = 201, body = FileWritten, description = "It was made"),
    ))]
async fn write_file(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, path)): At<(String, String)>,
    request: Request,
) -> Answer<Response> {
    let session = own_session_in_use(&app, &client, &session).await?;
    let path = name::<WorkspacePath>(&path)?;
    let (parts, body) = request.into_parts();
    let precondition = precondition(app.host.workspaces(), session, &path, &parts.headers).await?;
    let Received { bytes, place } = read_body(&app, &client, parts.headers, body, app.config.file_body).await?;
    let size = bytes.len() as u64;
    let (workspaces, at) = (app.host.workspaces().clone(), path.clone());
    // On a task of its own: what is to be written lies in memory, and has its place there, until it is, whoever waits for that.
    let writing = tokio::spawn(async move {
        let written = workspaces.write(session, &at, bytes, precondition).await;
        drop(place);
        written
    });
    let written = writing.await.unwrap_or_else(|_| {
        Err(WorkspaceError::Unavailable {
            reason: "writing broke".into(),
        })
    })?;
    let status = match written.outcome {
        WriteOutcome::Created => StatusCode::CREATED,
        WriteOutcome::Replaced => StatusCode::OK,
    };
    let etag = tag(&written.etag);
    Ok((
        status,
        [(header::ETAG, etag.clone())],
        Json(FileWritten {
            path: path.to_string(),
            size,
            etag,
        }),
    )
        .into_response())
}

/// Delete a file, or an empty directory
#[utoipa::path(delete, path = "/v1/sessions/{session}/files/{*path}", tag = "files",
    params(
        ("session" = String, Path, description = "`ses_…`"),
        ("path" = String, Path, description = "Relative to `/workspace`"),
        ("If-Match" = Option<String>, Header, description = "An `ETag`, or `*` for any version"),
    ),
    responses((status = 204, description = "It is gone")))]
async fn delete_file(
    State(app): State<Arc<App>>,
    client: Client,
    At((session, path)): At<(String, String)>,
    headers: HeaderMap,
) -> Answer<StatusCode> {
    let session = own_session_in_use(&app, &client, &session).await?;
    let path = name::<WorkspacePath>(&path)?;
    let precondition = precondition(app.host.workspaces(), session, &path, &headers).await?;
    if app.host.workspaces().delete(session, &path, precondition).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("file"))
    }
}

fn tag(etag: &Digest) -> String {
    format!("\"{etag}\"")
}

/// What a conditional header names.
#[derive(Debug, PartialEq, Eq)]
enum ETags {
    /// `*`
    Any,
    /// Those that could be ours; others never match.
    These(Vec<Digest>),
}

impl ETags {
    fn matches(&self, current: Option<&Digest>) -> bool {
        match self {
            Self::Any => current.is_some(),
            Self::These(tags) => current.is_some_and(|current| tags.contains(current)),
        }
    }
}

fn etags(headers: &HeaderMap, header: &HeaderName) -> Answer<Option<ETags>> {
    let mut tags = Vec::new();
    let mut is_there = false;
    for value in headers.get_all(header) {
        is_there = true;
        let text = value.to_str().map_err(|_| {
            Problem::new(
                ProblemCode::InvalidHeader,
                format!("{header} is an ETag, several, or `*`"),
            )
        })?;
        if text.trim() == "*" {
            return Ok(Some(ETags::Any));
        }
        tags.extend(
            text.split(',')
                .filter_map(|tag| tag.trim().trim_matches('"').parse::<Digest>().ok()),
        );
    }
    Ok(is_there.then_some(ETags::These(tags)))
}

/// What must be true of a file for a change to be made.
async fn precondition(
    workspaces: &Workspaces,
    session: SessionId,
    path: &WorkspacePath,
    headers: &HeaderMap,
) -> Answer<Precondition> {
    let wanted = match (
        etags(headers, &header::IF_MATCH)?,
        etags(headers, &header::IF_NONE_MATCH)?,
    ) {
        (None, None) => return Ok(Precondition::Any),
        (None, Some(ETags::Any)) => return Ok(Precondition::Absent),
        (Some(wanted), None) => wanted,
        (None, Some(ETags::These(_))) => {
            return Err(Problem::new(
                ProblemCode::InvalidHeader,
                "If-None-Match takes only `*` here; use If-Match for a version",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Problem::new(
                ProblemCode::InvalidHeader,
                "send If-Match or If-None-Match, not both",
            ));
        }
    };
    if let ETags::These(tags) = &wanted
        && let [tag] = tags.as_slice()
    {
        return Ok(Precondition::Matches(*tag));
    }
    // `*` or several: whichever is there now must be there still when the change is made.
    let current = workspaces.read(session, path).await?.map(|file| file.etag);
    match current {
        Some(etag) if wanted.matches(Some(&etag)) => Ok(Precondition::Matches(etag)),
        current => Err(WorkspaceError::Precondition { current }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn given(value: &str) -> ETags {
        let headers = HeaderMap::from_iter([(header::IF_MATCH, HeaderValue::from_str(value).unwrap())]);
        etags(&headers, &header::IF_MATCH).unwrap().unwrap()
    }

    #[test]
    fn an_etag_is_read_back_as_it_was_given() {
        let digest = Digest::of(b"x");
        assert_eq!(given(&tag(&digest)), ETags::These(vec![digest]));
        assert_eq!(given(&digest.to_string()), ETags::These(vec![digest]));
        assert_eq!(given("*"), ETags::Any);
    }

    #[test]
    fn a_foreign_or_weak_etag_matches_nothing() {
        let digest = Digest::of(b"x");
        for value in ["\"abc\"".to_owned(), format!("W/{}", tag(&digest))] {
            assert!(!given(&value).matches(Some(&digest)), "{value}");
        }
        assert!(!ETags::Any.matches(None));
    }
}
