package framework

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
)

// claim is what the store remembers of a pipeline that it holds the state of.
type claim struct {
	States     map[string]string `json:"states"`
	Partitions map[string]int    `json:"partitions"`
	Stages     map[string]int    `json:"stages,omitempty"` // partitions of those that keep state
	Parks      bool              `json:"parks,omitempty"`  // keys are parked, or were once
}

const claimName = "framework.pipelines"

func (r *Runner) readClaims() (map[string]claim, error) {
	raw, _, err := r.config.Store.Get(claimName)
	if err != nil {
		return nil, fmt.Errorf("framework: %w", err)
	}
	claims := map[string]claim{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &claims); err != nil {
			return nil, fmt.Errorf("framework: the store's list of pipelines cannot be read: %w", err)
		}
	}
	return claims, nil
}

func (r *Runner) writeClaims(claims map[string]claim) error {
	raw, err := json.Marshal(claims)
	if err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	b := r.config.Store.NewBatch()
	b.Put(claimName, raw)
	if err := r.config.Store.Commit(r.env.ctx, b); err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	return nil
}

// claimStages checks that the topics of stages with state have as many partitions as when the state was made, and
// writes their number down. With another number, keys would belong to other tasks than their state does.
func (r *Runner) claimStages(counts map[*stage]int) error {
	claims, err := r.readClaims()
	if err != nil {
		return err
	}
	for _, st := range r.stages {
		c := claims[st.pipeline.name]
		if !st.stateful && !c.Parks { // parked keys are state too
			continue
		}
		if was, ok := c.Stages[st.name]; ok && was != counts[st] {
			return fmt.Errorf("framework: stage %q: %w: its topics had %d partitions, they have %d, so keys would be apart from their state, and "+
				"their new records from their old ones. Copy the records into new topics with that number from the beginning, and read those by "+
				"a pipeline of another name", st.name, ErrForeignState, was, counts[st])
		}
		if c.Stages == nil {
			c.Stages = map[string]int{}
		}
		c.Stages[st.name] = counts[st]
		claims[st.pipeline.name] = c
	}
	return r.writeClaims(claims)
}

// claimStore checks that the store's state is of these pipelines, and writes down whose it is.
func (r *Runner) claimStore() error {
	claims, err := r.readClaims()
	if err != nil {
		return err
	}
	ours := map[string]claim{}
	for _, st := range r.stages {
		c, ok := ours[st.pipeline.name]
		if !ok {
			c = claim{States: map[string]string{}, Partitions: map[string]int{}, Parks: st.pipeline.parking != nil}
			ours[st.pipeline.name] = c
		}
		for _, n := range st.nodes {
			for i, state := range n.states {
				c.States[fmt.Sprintf("%s#%d", n.name, i)] = n.kind + ": " + state.shape()
			}
			if n.onTimer != nil { // it reckons with timers that it has set for the window it has
				c.States[n.name+" timers"] = n.kind + " " + n.detail
			}
			if n.sink != nil && n.sink.internal {
				c.Partitions[n.sink.topic] = r.config.InternalPartitions
			}
		}
	}
	if err := compareClaims(claims, ours); err != nil {
		return err
	}
	r.env.parks = map[string]bool{}
	for name, c := range ours {
		c.Stages, c.Parks = claims[name].Stages, c.Parks || claims[name].Parks
		r.tellNewStates(name, claims[name].States, c.States)
		maps.Copy(c.States, claims[name].States) // what a step has left stays in the store; of the others it is the same
		r.env.parks[name] = c.Parks
		claims[name] = c
	}
	return r.writeClaims(claims)
}

// tellNewStates warns where steps begin without state while the state of others, that the pipeline has no more, is in
// the store: they may be the same under new names.
func (r *Runner) tellNewStates(pipeline string, there, here map[string]string) {
	begin, left := missingIn(here, there), missingIn(there, here)
	if len(begin) > 0 && len(left) > 0 {
		r.config.Logger.Warn("steps begin without state, and the store holds state of steps that the pipeline does not have: who has renamed "+
			"a step gives it its old name, or its state is made anew from what comes now", "pipeline", pipeline,
			"begin", strings.Join(begin, ", "), "left", strings.Join(left, ", "))
	}
}

// missingIn lists the steps of states in a that b does not have.
func missingIn(a, b map[string]string) (steps []string) {
	for state := range a {
		if _, ok := b[state]; !ok {
			step, _, _ := strings.Cut(strings.TrimSuffix(state, " timers"), "#")
			steps = append(steps, step)
		}
	}
	sort.Strings(steps)
	return slices.Compact(steps)
}

// ErrForeignState is returned by Runner.Run when the store holds the state of other pipelines, or of these in
// another shape.
var ErrForeignState = errors.New("the store holds other state")

func compareClaims(claims, ours map[string]claim) error {
	known := false
	var there, here []string
	for name := range claims {
		there = append(there, name)
	}
	for name, c := range ours {
		here = append(here, name)
		old, ok := claims[name]
		if !ok {
			continue
		}
		known = true
		for step, state := range c.States {
			if was, ok := old.States[step]; ok && was != state {
				return fmt.Errorf("framework: pipeline %q, step %q: %w: it was %s, it is %s; "+
					"use another store directory, or give the pipeline or the step a new name", name, step, ErrForeignState, was, state)
			}
		}
		for topic, n := range c.Partitions {
			if was, ok := old.Partitions[topic]; ok && was != n {
				return fmt.Errorf("framework: pipeline %q, internal topic %q: %w: it has %d partitions, InternalPartitions is %d; "+
					"set it to %d, or give the pipeline a new name, under which it begins anew", name, topic, ErrForeignState, was, n, was)
			}
		}
	}
	if len(claims) > 0 && !known {
		sort.Strings(there)
		sort.Strings(here)
		return fmt.Errorf("framework: %w: that of pipeline %s, not of %s; use another store directory",
			ErrForeignState, strings.Join(there, ", "), strings.Join(here, ", "))
	}
	return nil
}
