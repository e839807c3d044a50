//! Which tools the journal says a turn has, so that whoever takes it up finds what has changed meanwhile.

use crate::toolset::Difference;
use fumehood_core::{
    call::ComponentRef,
    digest::Digest,
    name::{ComponentName, ToolName},
};
use std::collections::{BTreeMap, BTreeSet};

/// The tools a turn was last told of.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToldTools {
    names: BTreeSet<ToolName>,
    components: BTreeMap<ComponentName, Digest>,
}

impl ToldTools {
    /// What the turn began with.
    pub(super) fn at_start(tools: &[ToolName], components: &BTreeMap<ComponentName, Digest>) -> Self {
        Self {
            names: tools.iter().cloned().collect(),
            components: components.clone(),
        }
    }

    /// It was told of a change.
    pub(super) fn change(
        &mut self,
        added: &[ToolName],
        removed: &[ToolName],
        components: &BTreeMap<ComponentName, Digest>,
    ) {
        self.names.retain(|name| !removed.contains(name));
        self.names.extend(added.iter().cloned());
        self.components.clone_from(components);
    }

    /// How those that are on offer now differ from them.
    pub(crate) fn difference<'a>(&self, now: impl Iterator<Item = (&'a ToolName, ComponentRef)>) -> Option<Difference> {
        let mut difference = Difference::default();
        let mut gone = self.names.clone();
        for (name, component) in now {
            if !gone.remove(name) {
                difference.added.push(name.clone());
            } else if self.components.get(&component.name) != Some(&component.digest) {
                difference.updated.push(name.clone());
            }
            difference.components.insert(component.name, component.digest);
        }
        difference.removed = gone.into_iter().collect();
        let all = [&difference.added, &difference.updated, &difference.removed];
        all.iter().any(|tools| !tools.is_empty()).then_some(difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(tools: &[(&str, &str, &str)]) -> Vec<(ToolName, ComponentRef)> {
        let offered = |(tool, component, code): &(&str, &str, &str)| {
            let component = ComponentRef {
                name: component.parse().unwrap(),
                digest: Digest::of(code.as_bytes()),
            };
            (tool.parse().unwrap(), component)
        };
        tools.iter().map(offered).collect()
    }

    fn told(tools: &[(&str, &str, &str)]) -> ToldTools {
        let tools = offered(tools);
        let names: Vec<ToolName> = tools.iter().map(|(name, _)| name.clone()).collect();
        let components = tools
            .into_iter()
            .map(|(_, component)| (component.name, component.digest));
        ToldTools::at_start(&names, &components.collect())
    }

    fn difference(before: &ToldTools, now: &[(&str, &str, &str)]) -> Option<Difference> {
        let now = offered(now);
        before.difference(now.iter().map(|(name, component)| (name, component.clone())))
    }

    #[test]
    fn a_difference_names_what_came_what_went_and_what_is_other_code() {
        let all = [("a", "one", "1"), ("b", "two", "1"), ("c", "three", "1")];
        let mut before = told(&all);
        assert_eq!(difference(&before, &all), None);
        let now = [("b", "two", "1"), ("c", "three", "2"), ("d", "two", "1")];
        let changed = difference(&before, &now).unwrap();
        assert_eq!(
            changed.note().text,
            "Your tools have changed: d (added); c (updated); a (removed; do not call them)."
        );
        before.change(&changed.added, &changed.removed, &changed.components);
        assert_eq!(difference(&before, &now), None, "once it is told");
        let moved = [("b", "four", "1"), ("c", "three", "2"), ("d", "two", "1")];
        assert_eq!(difference(&before, &moved).unwrap().updated, ["b".parse().unwrap()]);
    }
}
