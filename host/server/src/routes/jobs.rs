//! Jobs: calls that run on in the background, how far they are, how they ended, and what stops one.

use super::own_session;
use crate::{
    app::App,
    auth::Client,
    input::{At, Listed, PageQuery, Query},
    problem::{Answer, Problem},
    schema,
};
use axum::{Json, extract::State};
use fumehood_core::{
    Time,
    call::{CallError, CallStatus, Metering, Output, parts},
    id::JobId,
};
use fumehood_store::jobs::{self as kept, JobState};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(list_jobs))
        .routes(routes!(show_job))
        .routes(routes!(stop_job))
}

/// A call that runs, or ran, in the background.
#[derive(Serialize, ToSchema)]
struct Job {
    /// Its id.
    id: String,
    /// The session.
    session: String,
    /// The turn that asked for it.
    turn: String,
    /// The call.
    call: String,
    /// The tool.
    tool: String,
    /// Where it is.
    status: JobStatus,
    /// Whether it is to be stopped, and has not ended yet.
    stopping: bool,
    /// How often it has begun.
    attempts: u32,
    /// What the tool said last of how far it is.
    progress: Option<JobProgress>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    created: Time,
    /// When it began first.
    #[schema(value_type = Option<String>, format = DateTime)]
    started: Option<Time>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    ended: Option<Time>,
}

/// Where a job is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum JobStatus {
    /// It waits for a place.
    Queued,
    /// It runs.
    Running,
    /// It returned a result.
    Completed,
    /// It has none.
    Failed,
    /// It was stopped.
    Cancelled,
}

/// How far a job is.
#[derive(Serialize, ToSchema)]
struct JobProgress {
    /// In words.
    message: String,
    /// From 0 to 1, if the tool knows.
    #[schema(minimum = 0, maximum = 1)]
    fraction: Option<f64>,
}

/// A job with what it wrote and how it ended.
#[derive(Serialize, ToSchema)]
struct WholeJob {
    #[serde(flatten)]
    job: Job,
    /// What it wrote beside its result: the first 65536 characters.
    log: String,
    /// How the call ended; absent before.
    result: Option<JobResult>,
}

/// How the call of a job ended.
#[derive(Serialize, ToSchema)]
struct JobResult {
    #[schema(value_type = schema::CallStatus)]
    status: CallStatus,
    /// What the tool returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Output>)]
    output: Option<Output>,
    /// Why there is no output.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::CallError>)]
    error: Option<CallError>,
    #[schema(value_type = schema::Metering)]
    metering: Metering,
}

impl From<kept::Job> for Job {
    fn from(job: kept::Job) -> Self {
        let (status, ended) = match job.state {
            JobState::Queued => (JobStatus::Queued, None),
            JobState::Running => (JobStatus::Running, None),
            JobState::Ended { status, at, .. } => {
                let status = match status {
                    CallStatus::Ok => JobStatus::Completed,
                    CallStatus::Cancelled => JobStatus::Cancelled,
                    _ => JobStatus::Failed,
                };
                (status, Some(at))
            }
        };
        Self {
            id: job.id.to_string(),
            session: job.session.to_string(),
            turn: job.turn.to_string(),
            call: job.call.to_string(),
            tool: job.tool.to_string(),
            status,
            stopping: job.stopping && ended.is_none(),
            attempts: job.attempts,
            progress: job.progress.map(|progress| JobProgress {
                message: progress.message,
                fraction: progress.fraction,
            }),
            created: job.created,
            started: job.started,
            ended,
        }
    }
}

/// What can't be an id reads as not there, as an unknown one does.
fn job_id(text: &str) -> Answer<JobId> {
    text.parse().map_err(|_| Problem::not_found("job"))
}

/// List the jobs of a session, newest first
///
/// Calls that run, or ran, in the background.
#[utoipa::path(get, path = "/v1/sessions/{session}/jobs", tag = "jobs",
    params(("session" = String, Path, description = "`ses_…`"), PageQuery),
    responses((status = 200, body = Listed<Job>, description = "A page of jobs")))]
async fn list_jobs(
    State(app): State<Arc<App>>,
    client: Client,
    At(session): At<String>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<Job>>> {
    let session = own_session(&app, &client, &session).await?;
    let page = app.host.store().jobs(&client.org, session, &page.into()).await?;
    Ok(Json(Listed {
        items: page.items.into_iter().map(Into::into).collect(),
        next: page.next,
    }))
}

/// Show a job, with what it wrote and how it ended
#[utoipa::path(get, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path, description = "`job_…`")),
    responses((status = 200, body = WholeJob, description = "The job")))]
async fn show_job(State(app): State<Arc<App>>, client: Client, At(job): At<String>) -> Answer<Json<WholeJob>> {
    let job = app.host.job(&client.org, job_id(&job)?).await?;
    let log = app.host.store().job_log(&client.org, job.id).await?;
    let result = app.host.job_result(&job).await?.map(|(result, metering)| {
        let (status, output, error) = parts(result);
        JobResult {
            status,
            output,
            error,
            metering,
        }
    });
    Ok(Json(WholeJob {
        job: job.into(),
        log: log.unwrap_or_default(),
        result,
    }))
}

/// Stop a job that runs or waits
///
/// The answer does not wait for its end, which the event `job.completed` tells: until then `stopping` is true. One that has ended stays as
/// it is. What it has done is done.
#[utoipa::path(post, path = "/v1/jobs/{job}/stop", tag = "jobs", params(("job" = String, Path, description = "`job_…`")),
    responses((status = 200, body = Job, description = "The job as it is now")))]
async fn stop_job(State(app): State<Arc<App>>, client: Client, At(job): At<String>) -> Answer<Json<Job>> {
    let job = app.host.stop_job(&client.org, job_id(&job)?).await?;
    Ok(Json(job.into()))
}
