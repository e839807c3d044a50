//! Where a newer version of what was added would be.

use super::{
    fetch::Outside,
    reference::Reference,
    registry::{Access, Registry},
    source::Source,
};
use anyhow::{Context as _, bail};
use semver::Version;

/// How many versions are named, at most.
const FEW: usize = 5;

impl Outside {
    /// The place to look at: the highest version of a repository where a version was asked for, else the same place again.
    pub(crate) async fn newest(&self, source: &Source) -> anyhow::Result<Source> {
        match source {
            Source::File(_) => Ok(source.clone()),
            Source::Web { url, .. } => Ok(Source::Web {
                url: url.clone(),
                digest: None,
            }),
            Source::Oci(reference) => {
                let Some(tag) = &reference.tag else {
                    bail!(
                        "{source} is pinned by its digest, so nothing newer can be there; add another with `fumehood tool add`"
                    );
                };
                let newer = match Version::parse(tag) {
                    Ok(version) => newer(&version, &self.tags(reference).await?),
                    Err(_) => None,
                };
                Ok(Source::Oci(reference.at(newer.as_deref().unwrap_or(tag))))
            }
        }
    }

    async fn tags(&self, reference: &Reference) -> anyhow::Result<Vec<String>> {
        let tags = Registry::new(&self.http, reference, Access::Read).await?.tags().await;
        tags.with_context(|| format!("oci://{}", reference.repository_place()))
    }
}

/// The highest version above this one. One that is not finished is for those who have one that is not.
fn newer(than: &Version, tags: &[String]) -> Option<String> {
    let versions = tags.iter().filter_map(|tag| Some((Version::parse(tag).ok()?, tag)));
    let wanted = versions.filter(|(version, _)| version > than && (version.pre.is_empty() || !than.pre.is_empty()));
    wanted.max_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, tag)| tag.clone())
}

/// The highest of the versions among tags, the first few.
pub(super) fn newest(tags: &[String]) -> Vec<&str> {
    let mut versions: Vec<_> = tags
        .iter()
        .filter_map(|tag| Some((Version::parse(tag).ok()?, tag.as_str())))
        .collect();
    versions.sort_by(|(a, _), (b, _)| b.cmp(a));
    versions.into_iter().map(|(_, tag)| tag).take(FEW).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_all_tags_the_highest_versions_are_named() {
        let tags = ["1.9.0", "sha256-00.sig", "1.10.0", "edge", "2.0.0-rc.1"].map(str::to_owned);
        assert_eq!(newest(&tags), ["2.0.0-rc.1", "1.10.0", "1.9.0"]);
        let many: Vec<_> = (0..50).map(|minor| format!("1.{minor}.0")).collect();
        assert_eq!(newest(&many).len(), FEW);
    }

    #[test]
    fn the_highest_finished_version_is_the_newest() {
        let tags = ["1.9.0", "latest", "1.10.0", "2.0.0-rc.1", "sha256-00.sig", "v3.0.0"].map(str::to_owned);
        let newer = |than: &str| newer(&than.parse().unwrap(), &tags);
        assert_eq!(newer("1.2.0").as_deref(), Some("1.10.0"));
        assert_eq!(newer("1.10.0"), None);
        assert_eq!(newer("2.0.0-beta").as_deref(), Some("2.0.0-rc.1"));
    }
}
