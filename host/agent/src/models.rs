//! The configured models: each with its provider, how often it is tried again, who is asked in its place, and its price.

use fumehood_core::{money::Money, name::ModelName, price::Price, turn::Usage};
use fumehood_model::{DEFAULT_RETRIES, Provider};
use std::{collections::BTreeMap, sync::Arc};

/// A configured model.
#[derive(Clone)]
pub struct Model {
    /// Who answers.
    pub provider: Arc<dyn Provider>,
    /// How often a call that failed is tried again.
    pub max_retries: u32,
    /// The models to ask when it doesn't answer, in this order.
    pub fallbacks: Vec<ModelName>,
    /// What its tokens cost, if that is known.
    pub price: Option<Price>,
}

impl From<Arc<dyn Provider>> for Model {
    /// With the usual retries and nothing else.
    fn from(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            max_retries: DEFAULT_RETRIES,
            fallbacks: Vec::new(),
            price: None,
        }
    }
}

/// The configured models by their names.
pub type Models = BTreeMap<ModelName, Model>;

/// A model that a turn may ask.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) name: ModelName,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) max_retries: u32,
    price: Option<Price>,
}

impl Candidate {
    fn new(name: &ModelName, model: &Model) -> Self {
        Self {
            name: name.clone(),
            provider: Arc::clone(&model.provider),
            max_retries: model.max_retries,
            price: model.price,
        }
    }

    /// Whether it may take a request of about so many tokens, as far as is known.
    pub(crate) fn has_room_for(&self, tokens: u64) -> bool {
        let window = self.provider.describe().context_window;
        window.is_none_or(|window| tokens < window)
    }

    /// What a call cost; `None` where that is not known.
    pub(crate) fn cost(&self, usage: Option<Usage>) -> Option<Money> {
        self.price?.of(usage?)
    }
}

/// The model of that name, and those that are asked when it doesn't answer. `None` if there is none of that name.
pub(crate) fn candidates(models: &Models, name: &ModelName) -> Option<(Candidate, Vec<Candidate>)> {
    let model = models.get(name)?;
    let fallbacks = model
        .fallbacks
        .iter()
        .filter_map(|name| Some(Candidate::new(name, models.get(name)?)))
        .collect();
    Some((Candidate::new(name, model), fallbacks))
}
