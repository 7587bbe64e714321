package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-analyze/charts"
)

// pictures draws what people would rather look at than read.
func pictures(r *run, dir string) error {
	return errors.Join(
		draw(filepath.Join(dir, "performance-cpu.png"), 900, 420, func(p *charts.Painter) error { return p.BarChart(cpuChart(r)) }),
		draw(filepath.Join(dir, "performance-connections.png"), 900, 360, func(p *charts.Painter) error { return p.LineChart(connectionsChart(r)) }),
	)
}

func draw(path string, width, height int, chart func(*charts.Painter) error) error {
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputPNG, Width: width, Height: height, Theme: charts.GetTheme(charts.ThemeLight)})
	if err := chart(p); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	picture, err := p.Bytes()
	if err != nil {
		return err
	}
	return os.WriteFile(path, picture, 0o644)
}

func twoDigits(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }

// cpuChart has a bar for each variant, the dearest on top.
func cpuChart(r *run) charts.BarChartOption {
	all := slices.SortedFunc(slices.Values(r.Proxy.Figures), func(a, b proxyFigures) int {
		return cmp.Compare(a.CPU.Median, b.CPU.Median)
	})
	var names []string
	var values []float64
	for _, f := range all {
		names, values = append(names, f.Variant), append(values, f.CPU.Median)
	}
	o := charts.NewBarChartOptionWithData([][]float64{values})
	o.Horizontal = true
	o.Title.Text = fmt.Sprintf("CPU of a request, plain reverse_proxy = 1 (%s)", r.Day)
	o.CategoryAxis.Labels = names
	o.ValueFormatter = twoDigits
	o.ValueAxis = []charts.ValueAxisOption{{Min: charts.Ptr(0.0)}}
	o.Legend.Show = charts.Ptr(false)
	o.SeriesList[0].Label.Show = charts.Ptr(true)
	return o
}

// connectionsChart has a line for each variant.
func connectionsChart(r *run) charts.LineChartOption {
	variants := []string{async, durable, bodies}
	values := make([][]float64, len(variants))
	var labels []string
	for i := range r.Connections {
		c := &r.Connections[i]
		labels = append(labels, strconv.Itoa(c.Load.Clients))
		for v, name := range variants {
			values[v] = append(values[v], c.of(name).CPU.Median)
		}
	}
	o := charts.NewLineChartOptionWithData(values)
	o.Title.Text = "CPU of a request by connections, plain = 1"
	o.XAxis.Labels = labels
	o.YAxis = []charts.YAxisOption{{Min: charts.Ptr(0.0)}}
	o.ValueFormatter = twoDigits
	for _, v := range variants {
		o.Legend.SeriesNames = append(o.Legend.SeriesNames, strings.TrimPrefix(v, "audit log, "))
	}
	o.Legend.Offset = charts.OffsetRight
	return o
}
