//! `fumehood housekeep`

use crate::{
    boot,
    config::Loaded,
    out::{Out, count},
};
use anyhow::{Context as _, bail};
use fumehood_core::now;
use fumehood_store::OpenError;
use serde_json::json;

/// Does at once what a serving host does every hour.
pub(crate) async fn housekeep(out: Out, loaded: &Loaded) -> anyhow::Result<()> {
    let data_dir = &loaded.config.data_dir;
    if !data_dir.exists() {
        bail!("{} does not exist: there is nothing to delete", data_dir.display());
    }
    let opened = match boot::open(&loaded.config).await {
        Err(error @ OpenError::InUse { .. }) => {
            return Err(error).context("a host that serves keeps house itself, every hour");
        }
        opened => opened?,
    };
    let running = boot::start_untooled(loaded, opened).await?;
    let kept = running.host.keep_house_at(now()).await;
    running.stop().await;
    let kept = kept?;
    out.either(&json!({"removed": kept.removed, "behind_s": kept.ahead.as_secs()}), |_| {
        let rows = kept.removed.iter();
        let rows = rows.map(|(kind, count)| vec![(*kind).to_owned(), count.to_string()]).collect();
        out.table(&["what", "removed"], rows, "nothing is too old");
        if !kept.ahead.is_zero() {
            out.line(format_args!(
                "the clock is {} ahead of the time by which that was told, which follows it a day each time; set the clock if it is wrong",
                count(kept.ahead.as_secs() / 86_400, "day")
            ));
        }
    });
    Ok(())
}
