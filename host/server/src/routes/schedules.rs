//! `/v1/schedules`: turns that come by themselves, and what came of their times.

mod body;

use self::body::{ChangeSchedule, CreateSchedule, Run, Schedule};
use crate::{
    app::App,
    auth::Client,
    idempotency::idempotency_key,
    input::{At, JsonBody, Listed, PageQuery, Query},
    problem::{Answer, Problem},
};
use axum::{Json, extract::State, response::IntoResponse};
use fumehood_core::id::ScheduleId;
use http::{HeaderMap, StatusCode, header};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(create_schedule, list_schedules))
        .routes(routes!(show_schedule, change_schedule, delete_schedule))
        .routes(routes!(pause_schedule))
        .routes(routes!(resume_schedule))
        .routes(routes!(run_schedule))
        .routes(routes!(list_runs))
}

/// What can't be an id reads as not there, as an unknown one does.
fn schedule_id(text: &str) -> Answer<ScheduleId> {
    text.parse().map_err(|_| Problem::not_found("schedule"))
}

/// Make a schedule
///
/// Each of its times is a turn: in `session`, or in a session of its own that is made for it. It fires for each time once, also when the
/// host is killed meanwhile.
///
/// For a day the same `Idempotency-Key` and request are the same schedule, as it is by now; the same key with another request is refused.
#[utoipa::path(post, path = "/v1/schedules", tag = "schedules", request_body = CreateSchedule,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters")),
    responses((status = 201, body = Schedule, description = "The schedule", headers(("Location" = String, description = "Its path")))))]
async fn create_schedule(
    State(app): State<Arc<App>>,
    client: Client,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CreateSchedule>,
) -> Answer<impl IntoResponse> {
    let request = body.into_request(idempotency_key(&headers)?)?;
    let schedule = app.host.create_schedule(&client.org, request).await?;
    let location = format!("/v1/schedules/{}", schedule.id);
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(Schedule::from(schedule)),
    ))
}

/// List the schedules, newest first
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", params(PageQuery),
    responses((status = 200, body = Listed<Schedule>, description = "A page of schedules")))]
async fn list_schedules(
    State(app): State<Arc<App>>,
    client: Client,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<Schedule>>> {
    let page = app.host.store().schedules(&client.org, &page.into()).await?;
    Ok(Json(Listed {
        items: page.items.into_iter().map(Into::into).collect(),
        next: page.next,
    }))
}

/// Show a schedule
#[utoipa::path(get, path = "/v1/schedules/{schedule}", tag = "schedules", params(("schedule" = String, Path, description = "`sch_…`")),
    responses((status = 200, body = Schedule, description = "The schedule")))]
async fn show_schedule(
    State(app): State<Arc<App>>,
    client: Client,
    At(schedule): At<String>,
) -> Answer<Json<Schedule>> {
    let schedule = app.host.schedule(&client.org, schedule_id(&schedule)?).await?;
    Ok(Json(schedule.into()))
}

/// Change a schedule, from its next time on
///
/// What is absent stays. With another `when` or `max_runs` a schedule that has ended fires again. A schedule keeps its session: make
/// another for another one.
#[utoipa::path(patch, path = "/v1/schedules/{schedule}", tag = "schedules", params(("schedule" = String, Path, description = "`sch_…`")),
    request_body = ChangeSchedule, responses((status = 200, body = Schedule, description = "The schedule as it is now")))]
async fn change_schedule(
    State(app): State<Arc<App>>,
    client: Client,
    At(schedule): At<String>,
    JsonBody(body): JsonBody<ChangeSchedule>,
) -> Answer<Json<Schedule>> {
    let id = schedule_id(&schedule)?;
    let schedule = app.host.change_schedule(&client.org, id, body.into_change()).await?;
    Ok(Json(schedule.into()))
}

/// Delete a schedule with its history
///
/// What its turns did stays; one that runs goes on.
#[utoipa::path(delete, path = "/v1/schedules/{schedule}", tag = "schedules", params(("schedule" = String, Path, description = "`sch_…`")),
    responses((status = 204, description = "It is gone")))]
async fn delete_schedule(State(app): State<Arc<App>>, client: Client, At(schedule): At<String>) -> Answer<StatusCode> {
    app.host.delete_schedule(&client.org, schedule_id(&schedule)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a schedule
///
/// Times that come meanwhile are not made up for. One that is paused already stays as it is.
#[utoipa::path(post, path = "/v1/schedules/{schedule}/pause", tag = "schedules", params(("schedule" = String, Path, description = "`sch_…`")),
    responses((status = 200, body = Schedule, description = "The schedule as it is now")))]
async fn pause_schedule(
    State(app): State<Arc<App>>,
    client: Client,
    At(schedule): At<String>,
) -> Answer<Json<Schedule>> {
    let schedule = app.host.pause_schedule(&client.org, schedule_id(&schedule)?).await?;
    Ok(Json(schedule.into()))
}

/// Let a paused schedule fire again, from its next time on
#[utoipa::path(post, path = "/v1/schedules/{schedule}/resume", tag = "schedules", params(("schedule" = String, Path, description = "`sch_…`")),
    responses((status = 200, body = Schedule, description = "The schedule as it is now")))]
async fn resume_schedule(
    State(app): State<Arc<App>>,
    client: Client,
    At(schedule): At<String>,
) -> Answer<Json<Schedule>> {
    let schedule = app.host.resume_schedule(&client.org, schedule_id(&schedule)?).await?;
    Ok(Json(schedule.into()))
}

/// Fire a schedule now, besides its own times
///
/// Also while it is paused, or when it has ended. The answer does not wait for the turn; the events of its session tell its end.
#[utoipa::path(post, path = "/v1/schedules/{schedule}/run", tag = "schedules", params(("schedule" = String, Path, description = "`sch_…`")),
    responses((status = 200, body = Run, description = "What came of it: a turn, or why there is none")))]
async fn run_schedule(State(app): State<Arc<App>>, client: Client, At(schedule): At<String>) -> Answer<Json<Run>> {
    if app.closing.is_cancelled() {
        return Err(Problem::shutting_down());
    }
    let run = app.host.run_schedule(&client.org, schedule_id(&schedule)?).await?;
    Ok(Json(run.into()))
}

/// List what came of a schedule's times, the latest first
///
/// The last thousand are remembered.
#[utoipa::path(get, path = "/v1/schedules/{schedule}/runs", tag = "schedules",
    params(("schedule" = String, Path, description = "`sch_…`"), PageQuery),
    responses((status = 200, body = Listed<Run>, description = "A page of runs")))]
async fn list_runs(
    State(app): State<Arc<App>>,
    client: Client,
    At(schedule): At<String>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Listed<Run>>> {
    let id = schedule_id(&schedule)?;
    let page = app.host.store().schedule_runs(&client.org, id, &page.into()).await?;
    Ok(Json(Listed {
        items: page.items.into_iter().map(Into::into).collect(),
        next: page.next,
    }))
}
