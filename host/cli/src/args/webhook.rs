//! `fumehood webhook …`

use clap::{Subcommand, ValueEnum};
use fumehood_core::id::{DeliveryId, WebhookId};

#[derive(Debug, Subcommand)]
pub(crate) enum Webhook {
    /// Make a webhook: a URL that is told what happens in the org's sessions. The secret that verifies its requests is printed once.
    Create {
        /// Where it is told.
        url: String,
        /// What it is told: a type of event, `turn.*`, `session.*`, `approval.*`, `budget.*`, `job.*` or `*`. May be repeated; without it,
        /// `turn.*`.
        #[arg(long, value_name = "TYPE")]
        event: Vec<String>,
        /// A title for people.
        #[arg(long)]
        title: Option<String>,
    },
    /// The webhooks, newest first.
    List,
    /// Change a webhook, from its next request on.
    Set {
        /// Its id.
        id: WebhookId,
        /// Where it is told.
        #[arg(long)]
        url: Option<String>,
        /// What it is told. May be repeated.
        #[arg(long, value_name = "TYPE")]
        event: Vec<String>,
        /// Whether it is told.
        #[arg(long, value_enum, value_name = "STATUS")]
        status: Option<WebhookStatus>,
    },
    /// Give a webhook another secret. For a day its requests are signed with both. At most four times within a day.
    Rotate {
        /// Its id.
        id: WebhookId,
    },
    /// What it is told, the latest first.
    Deliveries {
        /// Its id.
        id: WebhookId,
        /// Only those that are here.
        #[arg(long, value_enum, value_name = "STATUS")]
        status: Option<DeliveryStatus>,
        /// At most this many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Send everything again that did not arrive, or one delivery.
    Replay {
        /// Its id.
        id: WebhookId,
        /// Only this one.
        #[arg(long, value_name = "ID")]
        delivery: Option<DeliveryId>,
    },
    /// Delete a webhook with its deliveries and its secret.
    Delete {
        /// Its id.
        id: WebhookId,
    },
}

/// Whether a webhook is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WebhookStatus {
    /// From now on, and what waits.
    Active,
    /// Not before it is active again.
    Paused,
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeliveryStatus {
    /// It is sent, or sent again.
    Pending,
    /// It arrived.
    Delivered,
    /// It did not, and is not sent any more.
    Dead,
}
