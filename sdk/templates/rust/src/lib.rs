//! Forecasts for cities.

use fumehood::{Failure, Output, http};
use serde::{Deserialize, Serialize};

const API: &str = "https://api.forecast.example/v1/forecast";
/// More than any answer of the API has.
const MOST: usize = 64 << 10;

/// What the API answers, and the tool returns.
#[derive(Debug, Serialize, Deserialize)]
struct Forecast {
    city: String,
    days: Vec<Day>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Day {
    date: String,
    summary: String,
    low: f64,
    high: f64,
}

/// The forecast for a city: one line for each day, temperatures in °C.
#[fumehood::tool(effect = "pure", read_only, open_world, title = "Forecast")]
fn forecast(
    /// The city's name, such as `Bergen`.
    city: String,
    /// How many days, today included: 1 to 7; 3 if not given.
    #[schemars(range(min = 1, max = 7))]
    days: Option<u8>,
) -> Result<Output, Failure> {
    let city = city.trim();
    if city.is_empty() {
        return Err(Failure::invalid_arguments("`city` is blank: give the name of a city"));
    }
    let days = days.unwrap_or(3).to_string();
    let answer = http::get(API).query("city", city).query("days", days).send()?;
    if answer.status() == 404 {
        return Err(Failure::not_found(format!(
            "no city is called {city}: check the spelling, or name a larger one nearby"
        )));
    }
    // Any other status that is no success: 429 becomes "unavailable", with the time that the API asks for.
    let forecast: Forecast = answer.ok()?.json(MOST)?;
    Ok(Output::new(lines(&forecast)).with_structured(&forecast)?)
}

fn lines(forecast: &Forecast) -> String {
    let mut text = forecast.city.clone();
    for day in &forecast.days {
        text.push_str(&format!("\n{}: {}, {} to {} °C", day.date, day.summary, day.low, day.high));
    }
    text
}

fumehood::export!(forecast);

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood::testing;

    fn call(city: &str) -> Result<Output, Failure> {
        testing::call::<forecast>(serde_json::json!({"city": city}))
    }

    #[test]
    fn a_blank_city_is_refused() {
        assert!(matches!(call("  "), Err(Failure::InvalidArguments(_))));
    }

    #[test]
    fn a_denial_is_passed_on() {
        assert!(matches!(call("Bergen"), Err(Failure::Denied(_))));
    }

    #[test]
    fn each_day_is_a_line() {
        let day = Day { date: "2030-06-01".into(), summary: "rain".into(), low: 8.0, high: 12.5 };
        let forecast = Forecast { city: "Bergen".into(), days: vec![day] };
        assert_eq!(lines(&forecast), "Bergen\n2030-06-01: rain, 8 to 12.5 °C");
    }
}
