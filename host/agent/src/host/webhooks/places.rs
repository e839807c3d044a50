//! Who is told next: by turns the orgs, in an org by turns its servers, and of a server what is due for longest.
//!
//! So servers that hang take no more than their org's places, and the next that is free goes to an org that has fewer.

use fumehood_core::{id::WebhookId, name::OrgName};
use fumehood_store::webhooks::ToTell;
use std::collections::HashMap;

/// Attempts at the same time.
const AT_ONCE: usize = 32;
/// Of one org.
const OF_ONE_ORG: usize = 4;
/// Of one org at one server.
const OF_ONE_SERVER: usize = 2;

/// An org's server: scheme, host and port.
type Server = (OrgName, String);

/// The attempts under way: one of a webhook at most.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: HashMap<WebhookId, Server>,
    /// The numbers of the last places that orgs, and their servers, were given.
    orgs: HashMap<OrgName, u64>,
    servers: HashMap<Server, u64>,
    given: u64,
}

impl Places {
    /// Gives a place to the next of those that are due, which are in the order in which they became so; if one may have one.
    // THREAT[T-webhook-stall]
    pub(super) fn give<'w>(&mut self, due: &[&'w ToTell]) -> Option<&'w ToTell> {
        if self.taken.len() >= AT_ONCE {
            return None;
        }
        let free = due.iter().filter(|one| !self.has(one.id));
        let ranked = free.filter_map(|one| {
            let server = server(one);
            let of_org = self.count(|(org, _)| *org == one.org);
            let of_server = self.count(|other| *other == server);
            let may = of_org < OF_ONE_ORG && of_server < OF_ONE_SERVER;
            let last = (self.orgs.get(&one.org).copied(), self.servers.get(&server).copied());
            may.then_some(((of_org, last.0, of_server, last.1), *one, server))
        });
        // Of equals the first.
        let (_, one, server) = ranked.min_by_key(|(rank, ..)| *rank)?;
        self.given += 1;
        self.orgs.insert(one.org.clone(), self.given);
        self.servers.insert(server.clone(), self.given);
        self.taken.insert(one.id, server);
        Some(one)
    }

    /// Whether it is told just now.
    pub(super) fn has(&self, webhook: WebhookId) -> bool {
        self.taken.contains_key(&webhook)
    }

    pub(super) fn free(&mut self, webhook: WebhookId) {
        self.taken.remove(&webhook);
    }

    pub(super) fn free_all(&mut self) {
        self.taken.clear();
    }

    /// Forgets when those were told for whom nothing waits any more.
    pub(super) fn forget_all_but(&mut self, waiting: &[ToTell]) {
        let servers: HashMap<_, _> = waiting.iter().map(|one| (server(one), ())).collect();
        self.orgs.retain(|org, _| waiting.iter().any(|one| one.org == *org));
        self.servers.retain(|server, _| servers.contains_key(server));
    }

    fn count(&self, which: impl Fn(&Server) -> bool) -> usize {
        self.taken.values().filter(|server| which(server)).count()
    }
}

fn server(one: &ToTell) -> Server {
    // Up to the path; what can't be requested is refused where it is sent.
    let end = one.url.find("://").map_or(0, |at| at + 3);
    let end = one.url[end..]
        .find(['/', '?', '#'])
        .map_or(one.url.len(), |at| end + at);
    (one.org.clone(), one.url[..end].to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::now;

    fn to_tell(org: &str, url: &str) -> ToTell {
        ToTell {
            id: WebhookId::new(),
            org: OrgName::new(org).unwrap(),
            url: url.to_owned(),
            at: now(),
        }
    }

    /// Gives as many places as may be.
    fn given<'w>(places: &mut Places, due: &'w [ToTell]) -> Vec<&'w ToTell> {
        let due: Vec<_> = due.iter().collect();
        std::iter::from_fn(|| places.give(&due)).collect()
    }

    #[test]
    fn servers_of_several_orgs_that_hang_keep_no_other_org_waiting() {
        let mut places = Places::default();
        let hang: Vec<_> = (0..12)
            .flat_map(|org| (0..4).map(move |one| to_tell(&format!("org-{org}"), &format!("https://s{one}.example/"))))
            .collect();
        let told = given(&mut places, &hang);
        assert_eq!(told.len(), AT_ONCE);
        let ended = told[0].id;
        places.free(ended);
        // What hangs is due for longer, and one of it is due again.
        let mut due = hang;
        due.push(to_tell("other", "https://fast.example/"));
        assert_eq!(given(&mut places, &due)[0].org.as_str(), "other");
        places.free(due.last().unwrap().id);
        assert_eq!(given(&mut places, &due)[0].org.as_str(), "other", "it has fewer places");
    }

    #[test]
    fn a_server_that_hangs_keeps_no_other_of_its_org_waiting() {
        let mut places = Places::default();
        let mut due: Vec<_> = (0..6)
            .map(|one| to_tell("one", &format!("https://slow.example/{one}")))
            .collect();
        due.push(to_tell("one", "https://fast.example:8443/a?b"));
        let told: Vec<_> = given(&mut places, &due).iter().map(|one| one.url.clone()).collect();
        assert_eq!(told.len(), 3, "two at the one, one at the other: {told:?}");
        assert!(told.contains(&due[6].url), "{told:?}");
    }

    #[test]
    fn orgs_are_told_by_turns_and_what_is_due_for_longest_first() {
        let mut places = Places::default();
        let due = [
            to_tell("one", "https://a.example/"),
            to_tell("one", "https://b.example/"),
            to_tell("two", "https://c.example/"),
        ];
        let told: Vec<_> = given(&mut places, &due).iter().map(|one| one.id).collect();
        assert_eq!(told, [due[0].id, due[2].id, due[1].id]);
        assert!(
            given(&mut places, &due).is_empty(),
            "one attempt of a webhook at a time"
        );
        places.free(due[0].id);
        places.free(due[2].id);
        places.free(due[1].id);
        assert_eq!(
            given(&mut places, &due)[0].id,
            due[2].id,
            "the other had its turn later"
        );
    }
}
