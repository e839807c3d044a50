// Command weather is a component: forecasts for cities.
package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

const api = "https://api.forecast.example/v1/forecast"

// What the API answers, and the tool returns.
type found struct {
	City string `json:"city"`
	Days []struct {
		Date    string  `json:"date"`
		Summary string  `json:"summary"`
		Low     float64 `json:"low"`
		High    float64 `json:"high"`
	} `json:"days"`
}

func forecast(arguments []byte) (Output, error) {
	asked := struct {
		City string `json:"city"`
		Days int    `json:"days"`
	}{Days: 3}
	if err := json.Unmarshal(arguments, &asked); err != nil {
		return Output{}, err
	}
	city := strings.TrimSpace(asked.City)
	if city == "" {
		return Output{}, Fail(InvalidArguments, "`city` is blank: give the name of a city")
	}
	answer, err := Get(api, map[string]string{"city": city, "days": strconv.Itoa(asked.Days)})
	if err != nil {
		return Output{}, err
	}
	if answer.Status == 404 {
		return Output{}, Fail(NotFound, "no city is called %s: check the spelling, or name a larger one nearby", city)
	}
	// Any other status that is no success: 429 becomes "unavailable", with the time that the API asks for.
	if err := answer.Ok(); err != nil {
		return Output{}, err
	}
	var all found
	if err := answer.JSON(&all); err != nil {
		return Output{}, err
	}
	lines := []string{all.City}
	for _, day := range all.Days {
		lines = append(lines, fmt.Sprintf("%s: %s, %g to %g °C", day.Date, day.Summary, day.Low, day.High))
	}
	return Output{Text: strings.Join(lines, "\n"), Structured: all}, nil
}

var tools = []Tool{{
	Name:        "forecast",
	Title:       "Forecast",
	Description: "The forecast for a city: one line for each day, temperatures in °C.",
	InputSchema: `{
		"type": "object",
		"properties": {
			"city": {"type": "string", "description": "The city's name, such as 'Bergen'."},
			"days": {"type": "integer", "minimum": 1, "maximum": 7, "description": "How many days, today included; 3 if not given."}
		},
		"required": ["city"],
		"additionalProperties": false
	}`,
	Effect:    Pure,
	ReadOnly:  true,
	OpenWorld: true,
	Run:       forecast,
}}

func main() {}
