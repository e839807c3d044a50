//! Authority in words: for each capability what is asked, what is left of it, and which layer cut what.
//!
//! It is made of the same layers as [`Authority::compute`], and property tests hold both together: what an
//! explanation says is allowed is exactly what a call may do. It names rules of every layer, so it is for those
//! who may read them, never for a tool or a model.

use crate::{
    agent::AgentSpec,
    authority::{Authority, HostPolicy, SessionNarrowing, background_layers},
    credential::Credential,
    files::{Access, Files},
    grant::Grant,
    limits::Limits,
    manifest::{Manifest, joined},
    network::{Layer, NetworkList, NetworkRule},
    refusal::{Capability, Setting, advice, removal},
    tool_pattern::ToolPattern,
};
use fumehood_core::name::ToolName;
use serde::{Serialize, Serializer};

/// The most rules that an explanation lists for one rule asked.
const MOST_RULES: usize = 64;
/// The most comparisons of rules for one explanation. Lists that differ in every rule and overlap all the same take more than
/// anybody would read.
const MOST_COMPARISONS: usize = 2_000_000;

/// What a component may do in a scope, and why not more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Which of its tools the agent offers the model.
    pub tools: Vec<Offered>,
    /// One for each thing asked, in the order of the manifest; then each limit.
    pub capabilities: Vec<Explained>,
}

/// Whether a tool is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offered {
    /// The tool.
    pub tool: ToolName,
    /// The agents whose `tools` list does not name it; none: it is offered.
    #[serde(serialize_with = "layer_words")]
    pub cut_by: Vec<Layer>,
}

/// How much is left of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of it.
    All,
    /// Some of it.
    Part,
    /// Nothing.
    None,
}

/// One capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// Which.
    pub capability: Capability,
    /// What the manifest asks for, as it writes it; absent where it asks for nothing and gets a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// How much of it is left.
    pub extent: Extent,
    /// What is left, as a manifest would write it.
    pub has: Vec<String>,
    /// Whether there is more left than `has` and `cuts` list: too much to be said.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// What is refused although `has` names it: the `deny` rules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub except: Vec<Exception>,
    /// Which layers cut it, each by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<Cut>,
}

/// A `deny` rule that takes something out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exception {
    /// Whose.
    #[serde(serialize_with = "one_layer")]
    pub layer: Layer,
    /// The rule.
    pub rule: String,
}

/// What one layer leaves of what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// Whose.
    #[serde(serialize_with = "one_layer")]
    pub layer: Layer,
    /// What this layer alone would leave; nothing: none of it.
    pub left: Vec<String>,
    /// The `deny` rule that did it; absent where no rule allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How to change that.
    pub change: String,
}

fn one_layer<S: Serializer>(layer: &Layer, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(layer)
}

fn layer_words<S: Serializer>(layers: &[Layer], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(layers.iter().map(ToString::to_string))
}

/// Explains what [`Authority::compute`] computes from the same arguments. `tools` are the component's.
#[must_use]
pub fn explain<'t>(
    request: &Manifest,
    grant: &Grant,
    agents: &[AgentSpec],
    session: &SessionNarrowing,
    host: &HostPolicy,
    tools: impl IntoIterator<Item = &'t ToolName>,
) -> Explanation {
    let authority = Authority::compute(request, grant, agents, session, host);
    let asked_rules = request.network.allow.as_deref().unwrap_or_default();
    let mut narrowing = Narrowing::default();
    let mut capabilities: Vec<Explained> = asked_rules
        .iter()
        .map(|rule| network(rule, &authority.network.layers, &mut narrowing))
        .collect();
    capabilities.extend(request.credentials.iter().map(|wanted| credential(wanted, grant)));
    // No path at all is no access: then it asks for nothing.
    if !Files::none().covers(&request.files) {
        capabilities.push(files(request, grant, session, &authority.files));
    }
    if request.kv.access != Access::None {
        capabilities.push(key_values(request.kv.access, grant.kv.access));
    }
    capabilities.extend(request.secrets.sign.iter().map(|name| {
        let granted = grant.secrets.sign.contains(name);
        named(Capability::Sign, name.as_str(), granted, &Setting::Sign(name.as_str()))
    }));
    capabilities.extend(
        request
            .tools
            .call
            .iter()
            .map(|wanted| call_tools(wanted, grant, agents)),
    );
    if request.jobs.detach {
        let granted = grant.jobs.detach;
        capabilities.push(named(Capability::Detach, "detach", granted, &Setting::Detach));
    }
    let background = background_layers(request, grant, agents, session);
    capabilities.extend(request.jobs.background.iter().map(|wanted| {
        let below = background.iter().filter(|(layer, _)| *layer != Layer::Request);
        tools_named(wanted, &Setting::Background(wanted.as_str()), below.cloned())
    }));
    capabilities.extend(request.env.names.iter().map(|name| {
        let granted = grant.env.names.contains(name);
        named(Capability::Env, name.as_str(), granted, &Setting::Env(name.as_str()))
    }));
    capabilities.extend(limits(request, grant, host, &authority.limits));
    capabilities.extend(rate(request, grant, &authority));
    Explanation {
        tools: tools.into_iter().map(|tool| offered(request, tool, agents)).collect(),
        capabilities,
    }
}

fn offered(request: &Manifest, tool: &ToolName, agents: &[AgentSpec]) -> Offered {
    let names = |list: &Vec<ToolPattern>| list.iter().any(|pattern| pattern.matches(&request.name, tool));
    Offered {
        tool: tool.clone(),
        cut_by: agents
            .iter()
            .filter(|agent| agent.tools.as_ref().is_some_and(|list| !names(list)))
            .map(|agent| Layer::Agent(agent.name.clone()))
            .collect(),
    }
}

fn network(asked: &NetworkRule, layers: &[(Layer, NetworkList)], narrowing: &mut Narrowing) -> Explained {
    narrowing.incomplete = false;
    let text = asked.to_string();
    let change = |layer: &Layer| advice(layer, &Setting::Network(&text));
    let mut left = vec![asked.clone()];
    let mut cuts = Vec::new();
    for (layer, list) in layers {
        let allow = match &list.allow {
            _ if *layer == Layer::Request => None,
            Some(allow) => Some(allow.as_slice()),
            // A grant that says nothing grants nothing.
            None if *layer == Layer::Grant => Some([].as_slice()),
            None => None,
        };
        if let Some(allow) = allow {
            let own = narrowing.narrowed(std::slice::from_ref(asked), allow);
            if !own.iter().any(|rule| rule.covers(asked)) {
                cuts.push(Cut {
                    layer: layer.clone(),
                    left: texts(&own),
                    rule: None,
                    change: change(layer),
                });
            }
            left = narrowing.narrowed(&left, allow);
        }
        if let Some(deny) = list.deny.iter().find(|deny| deny.denies_all_of(asked)) {
            cuts.push(Cut {
                layer: layer.clone(),
                left: Vec::new(),
                rule: Some(deny.to_string()),
                change: removal(layer),
            });
        }
    }
    let denied = || {
        layers
            .iter()
            .flat_map(|(layer, list)| list.deny.iter().map(move |deny| (layer, deny)))
    };
    left.retain(|rule| !denied().any(|(_, deny)| deny.denies_all_of(rule)));
    let except: Vec<Exception> = denied()
        .filter(|(_, deny)| left.iter().any(|rule| deny.denies_some_of(rule)))
        .map(|(layer, deny)| Exception {
            layer: layer.clone(),
            rule: deny.to_string(),
        })
        .collect();
    let whole = except.is_empty() && left.iter().any(|rule| rule.covers(asked));
    Explained {
        capability: Capability::Network,
        asked: Some(text),
        extent: match narrowing.incomplete {
            true => Extent::Part,
            false => extent(whole, left.is_empty()),
        },
        has: texts(&left),
        more: narrowing.incomplete,
        except,
        cuts,
    }
}

/// Works out what lists have in common, as far as that can be said.
#[derive(Default)]
struct Narrowing {
    compared: usize,
    /// Whether something was left out.
    incomplete: bool,
}

impl Narrowing {
    /// The rules that allow what both lists allow, none of which another covers.
    fn narrowed(&mut self, rules: &[NetworkRule], by: &[NetworkRule]) -> Vec<NetworkRule> {
        let mut kept: Vec<NetworkRule> = Vec::new();
        for (rule, own) in rules.iter().flat_map(|rule| by.iter().map(move |own| (rule, own))) {
            if self.compared > MOST_COMPARISONS {
                self.incomplete = true;
                break;
            }
            self.compared += 1;
            let Some(both) = rule.intersect(own) else { continue };
            self.compared += kept.len();
            if kept.iter().any(|rule| rule.covers(&both)) {
                continue;
            }
            // Two rules that differ in their methods alone are one, so that `GET` and `POST` make up `GET,POST` again.
            let whole = kept.iter().find_map(|rule| rule.joined(&both)).unwrap_or(both);
            kept.retain(|rule| !whole.covers(rule));
            if kept.len() == MOST_RULES {
                self.incomplete = true;
                break;
            }
            kept.push(whole);
        }
        kept
    }
}

const fn extent(whole: bool, nothing: bool) -> Extent {
    match (nothing, whole) {
        (true, _) => Extent::None,
        (false, true) => Extent::All,
        (false, false) => Extent::Part,
    }
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn credential(wanted: &Credential, grant: &Grant) -> Explained {
    let left: Vec<Credential> = grant
        .credentials
        .iter()
        .filter_map(|granted| granted.narrow(wanted))
        .collect();
    let hosts: Vec<_> = left.iter().flat_map(|credential| credential.hosts.clone()).collect();
    let missing = wanted
        .hosts
        .iter()
        .find(|host| !hosts.iter().any(|granted| granted.covers(host)));
    let words = |credential: &Credential| {
        format!(
            "{} to {} in {}",
            credential.secret,
            joined(&credential.hosts),
            credential.inject
        )
    };
    let has: Vec<String> = left.iter().map(words).collect();
    let cut = missing.map(|host| Cut {
        layer: Layer::Grant,
        left: has.clone(),
        rule: None,
        change: advice(
            &Layer::Grant,
            &Setting::Credential {
                secret: wanted.secret.as_str(),
                host: &host.to_string(),
            },
        ),
    });
    Explained {
        capability: Capability::Credential,
        asked: Some(words(wanted)),
        extent: extent(missing.is_none(), has.is_empty()),
        has,
        more: false,
        except: Vec::new(),
        cuts: cut.into_iter().collect(),
    }
}

/// Files as a manifest writes them, on one line.
fn files_words(files: &Files) -> String {
    match (&files.paths, files.access) {
        (_, Access::None) => Access::None.to_string(),
        (None, access) => format!("{access} everywhere"),
        (Some(paths), access) => format!("{access} in {}", joined(paths)),
    }
}

fn files(request: &Manifest, grant: &Grant, session: &SessionNarrowing, left: &Files) -> Explained {
    let asked = &request.files;
    let layers = [
        (Layer::Grant, Some(grant.files.clone())),
        (
            Layer::Session,
            session.files.map(|access| Files { access, paths: None }),
        ),
    ];
    let cuts = layers
        .into_iter()
        .filter_map(|(layer, own)| Some((layer, own?)))
        .filter(|(_, own)| !own.covers(asked))
        .map(|(layer, own)| {
            let left = asked.intersect(&own);
            let missing = asked.paths.iter().flatten().find(|path| !own.may_read(path.as_str()));
            let setting = match missing {
                Some(path) if own.access >= asked.access => Setting::FilesPath(path.as_str()),
                _ => Setting::Files(asked.access),
            };
            Cut {
                change: advice(&layer, &setting),
                left: some_files(&left),
                rule: None,
                layer,
            }
        })
        .collect();
    Explained {
        capability: Capability::Files,
        asked: Some(files_words(asked)),
        extent: extent(left.covers(asked), left.access == Access::None),
        has: some_files(left),
        more: false,
        except: Vec::new(),
        cuts,
    }
}

fn some_files(files: &Files) -> Vec<String> {
    match files.access {
        Access::None => Vec::new(),
        _ => vec![files_words(files)],
    }
}

fn key_values(asked: Access, granted: Access) -> Explained {
    let left = asked.min(granted);
    let has: Vec<String> = (left != Access::None).then(|| left.to_string()).into_iter().collect();
    let cut = (left < asked).then(|| Cut {
        layer: Layer::Grant,
        left: has.clone(),
        rule: None,
        change: advice(&Layer::Grant, &Setting::Kv(asked)),
    });
    Explained {
        capability: Capability::Kv,
        asked: Some(asked.to_string()),
        extent: extent(left == asked, left == Access::None),
        has,
        more: false,
        except: Vec::new(),
        cuts: cut.into_iter().collect(),
    }
}

/// A capability that is granted by its name or not at all.
fn named(capability: Capability, name: &str, granted: bool, setting: &Setting<'_>) -> Explained {
    let cut = (!granted).then(|| Cut {
        layer: Layer::Grant,
        left: Vec::new(),
        rule: None,
        change: advice(&Layer::Grant, setting),
    });
    Explained {
        capability,
        asked: Some(name.to_owned()),
        extent: extent(granted, !granted),
        has: granted.then(|| name.to_owned()).into_iter().collect(),
        more: false,
        except: Vec::new(),
        cuts: cut.into_iter().collect(),
    }
}

fn call_tools(wanted: &ToolPattern, grant: &Grant, agents: &[AgentSpec]) -> Explained {
    let agents = agents
        .iter()
        .filter_map(|agent| Some((Layer::Agent(agent.name.clone()), agent.tools.as_deref()?)));
    let layers = std::iter::once((Layer::Grant, &*grant.tools.call)).chain(agents);
    tools_named(wanted, &Setting::CallTools(wanted.as_str()), layers)
}

/// Two patterns have no common pattern that could be written down, so what is left is the one asked, as far as
/// each cut's patterns name the tool as well.
fn tools_named<'l>(
    wanted: &ToolPattern,
    setting: &Setting<'_>,
    layers: impl Iterator<Item = (Layer, &'l [ToolPattern])>,
) -> Explained {
    let cuts: Vec<Cut> = layers
        .filter(|(_, list)| !list.iter().any(|own| own.covers(wanted)))
        .map(|(layer, list)| Cut {
            change: advice(&layer, setting),
            left: texts(list),
            rule: None,
            layer,
        })
        .collect();
    let nothing = cuts.iter().any(|cut| cut.left.is_empty());
    Explained {
        capability: setting.capability(),
        asked: Some(wanted.to_string()),
        extent: extent(cuts.is_empty(), nothing),
        has: (!nothing).then(|| wanted.to_string()).into_iter().collect(),
        more: false,
        except: Vec::new(),
        cuts,
    }
}

/// Each limit in effect, by the names that files use.
fn limits(request: &Manifest, grant: &Grant, host: &HostPolicy, left: &Limits) -> Vec<Explained> {
    let (asked, granted) = (request.limits.entries(), grant.limits.entries());
    let value = |entries: &[(&'static str, String)], key: &str| {
        entries
            .iter()
            .find(|(own, _)| *own == key)
            .map(|(_, value)| value.clone())
    };
    let defaults = entries(&host.defaults);
    entries(left)
        .into_iter()
        .map(|(key, has)| {
            let find = |table: &[(String, String)]| table.iter().find(|(own, _)| *own == key).map(|(_, v)| v.clone());
            let wanted = value(&asked, &key);
            let granted = value(&granted, &key);
            // A grant may also raise what nobody asked for; what is below the default then is the host's doing.
            let base = wanted.clone().or_else(|| granted.clone()).or_else(|| find(&defaults));
            let cut = base.filter(|base| *base != has).map(|base| {
                let layer = if granted.as_ref() == Some(&has) {
                    Layer::Grant
                } else {
                    Layer::Host
                };
                let (key, value) = (&*key, &*base);
                Cut {
                    change: advice(&layer, &Setting::Limit { key, value }),
                    left: vec![format!("{key} {has}")],
                    rule: None,
                    layer,
                }
            });
            Explained {
                capability: Capability::Limit,
                extent: extent(cut.is_none(), false),
                has: vec![format!("{key} {has}")],
                asked: wanted.map(|wanted| format!("{key} {wanted}")),
                more: false,
                except: Vec::new(),
                cuts: cut.into_iter().collect(),
            }
        })
        .collect()
}

/// Limits as `(key, value)` in the words of a configuration, whichever limits there are.
fn entries(limits: &Limits) -> Vec<(String, String)> {
    let table = toml::Table::try_from(limits).unwrap_or_default();
    table
        .into_iter()
        .map(|(key, value)| {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (key, value)
        })
        .collect()
}

fn rate(request: &Manifest, grant: &Grant, authority: &Authority) -> Option<Explained> {
    let left = authority.rate?;
    let asked = request.rate.calls;
    let cut = grant.rate.calls.filter(|_| asked != Some(left)).map(|_| Cut {
        layer: Layer::Grant,
        left: vec![left.to_string()],
        rule: None,
        change: match asked {
            Some(asked) => advice(&Layer::Grant, &Setting::Rate(&asked.to_string())),
            None => "to lift it, leave `calls` under `[rate]` out of the grant (`fumehood tool grant`)".to_owned(),
        },
    });
    Some(Explained {
        capability: Capability::Rate,
        asked: asked.map(|asked| asked.to_string()),
        extent: extent(cut.is_none(), false),
        has: vec![left.to_string()],
        more: false,
        except: Vec::new(),
        cuts: cut.into_iter().collect(),
    })
}
