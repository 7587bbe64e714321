// Command score is a stopgap for those who write profiles.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

func main() {
	name := flag.String("profile", "", "")
	auto := flag.Bool("auto", false, "")
	flag.Parse()
	p, err := profile.Builtin(*name)
	if strings.Contains(*name, "/") {
		b, err2 := os.ReadFile(*name)
		if err2 != nil {
			panic(err2)
		}
		p, err = profile.Parse(b)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var rec *profile.Recognizer
	if *auto {
		all, _ := profile.Builtins()
		rec = profile.NewRecognizer(all)
	}
	var scores []*replay.Score
	for _, arg := range flag.Args() {
		files, err := replay.Read(arg)
		if err != nil {
			panic(err)
		}
		for _, f := range files {
			entries, err := replay.Run(f, replay.Options{Profile: p, Recognizer: rec})
			if err != nil {
				panic(err)
			}
			scores = append(scores, replay.ScoreFile(f, p, entries))
		}
	}
	for _, s := range scores {
		for i := range s.Misses {
			fmt.Println(&s.Misses[i])
		}
	}
	replay.Print(os.Stdout, scores)
}
