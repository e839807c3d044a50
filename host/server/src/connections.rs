//! Whose connections there are: each counts to the address it comes from until a request of an org came over it, and to that org
//! then. So neither strangers nor one org hold all that the host has.

use fumehood_core::name::OrgName;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::task_tracker::TaskTrackerToken,
};

/// The connections there are, by whose they are.
#[derive(Debug)]
pub(crate) struct Connections {
    of_stranger: usize,
    of_org: usize,
    held: Mutex<HashMap<Holder, usize>>,
}

/// Whose a connection is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Holder {
    Stranger(IpAddr),
    Org(OrgName),
}

/// A connection that counts until dropped.
#[derive(Debug)]
pub(crate) struct Member {
    all: Arc<Connections>,
    holder: Mutex<Holder>,
}

/// What a connection holds of the server for as long as it is open, whoever serves it: after an upgrade that is not HTTP any more.
#[derive(Debug)]
pub(crate) struct Line {
    member: Member,
    cut: CancellationToken,
    _place: OwnedSemaphorePermit,
    _awaited: TaskTrackerToken,
}

impl Line {
    /// Of a member, with its place among all; the server ends after it, and cancels `cut` when it will not wait any longer.
    pub(crate) const fn new(
        member: Member,
        place: OwnedSemaphorePermit,
        awaited: TaskTrackerToken,
        cut: CancellationToken,
    ) -> Self {
        Self {
            member,
            cut,
            _place: place,
            _awaited: awaited,
        }
    }

    pub(crate) const fn member(&self) -> &Member {
        &self.member
    }

    /// Waits until the server does not wait any longer.
    pub(crate) fn cut(&self) -> WaitForCancellationFuture<'_> {
        self.cut.cancelled()
    }
}

impl Connections {
    /// At most so many from one address over which no valid key came, and so many of one org.
    pub(crate) fn new(of_stranger: usize, of_org: usize) -> Self {
        Self {
            of_stranger,
            of_org,
            held: Mutex::default(),
        }
    }

    // THREAT[T-org-connections]
    /// A new connection from an address, unless it has as many as it may.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Member> {
        let holder = Holder::Stranger(network(address));
        self.take(&holder).then(|| Member {
            all: Arc::clone(self),
            holder: Mutex::new(holder),
        })
    }

    fn take(&self, holder: &Holder) -> bool {
        let most = match holder {
            Holder::Stranger(_) => self.of_stranger,
            Holder::Org(_) => self.of_org,
        };
        let mut held = self.held();
        match held.get_mut(holder) {
            Some(count) if *count >= most => false,
            Some(count) => {
                *count += 1;
                true
            }
            None if most == 0 => false,
            None => {
                held.insert(holder.clone(), 1);
                true
            }
        }
    }

    fn give_back(&self, holder: &Holder) {
        let mut held = self.held();
        match held.get_mut(holder) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(holder)),
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Holder, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Counts the connection to the org of its latest request; `false` if the org has as many as it may.
    pub(crate) fn belongs_to(&self, org: &OrgName) -> bool {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*holder, Holder::Org(known) if known == org) {
            return true;
        }
        let next = Holder::Org(org.clone());
        if !self.all.take(&next) {
            return false;
        }
        self.all.give_back(&holder);
        *holder = next;
        true
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        self.all.give_back(&holder);
    }
}

/// What one stranger can have any number of addresses in: of IPv6, a network of 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_without_a_key_has_so_many_connections_and_others_theirs() {
        let all = Arc::new(Connections::new(2, 9));
        let first = all.admit(address("192.0.2.1"));
        let second = all.admit(address("::ffff:192.0.2.1"));
        assert!(first.is_some() && second.is_some());
        assert!(all.admit(address("192.0.2.1")).is_none());
        assert!(all.admit(address("192.0.2.2")).is_some());
        drop(first);
        assert!(all.admit(address("192.0.2.1")).is_some());
    }

    #[test]
    fn the_addresses_of_one_network_count_as_one() {
        let all = Arc::new(Connections::new(1, 9));
        let first = all.admit(address("2001:db8::1"));
        assert!(first.is_some() && all.admit(address("2001:db8::2")).is_none());
        assert!(all.admit(address("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn a_connection_counts_to_the_org_of_its_latest_request() {
        let all = Arc::new(Connections::new(1, 1));
        let (one, other) = (OrgName::new("one").unwrap(), OrgName::new("other").unwrap());
        let first = all.admit(address("192.0.2.1")).unwrap();
        assert!(first.belongs_to(&one) && first.belongs_to(&one));
        let second = all.admit(address("192.0.2.1")).unwrap();
        assert!(!second.belongs_to(&one) && second.belongs_to(&other));
        assert!(!first.belongs_to(&other), "and it stays with its own");
        drop(second);
        assert!(first.belongs_to(&other));
        drop(first);
        assert!(all.held().is_empty(), "what nobody holds is forgotten");
    }
}
