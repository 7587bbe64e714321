// Package viewer is the page on which people look at an audit log: plain HTML, CSS and
// modules of JavaScript, embedded, without a build step. It knows the endpoints of
// httpapi by their relative addresses and nothing else; who may see what is decided
// there, and nothing of a user is in the page itself.
//
// The page loads nothing from elsewhere, has no inline script or style, and takes every
// text of the log as text: its policy (Policy) forbids all else, trusted types included.
//
// static/vendor holds uPlot as its npm package has it, for the timeline; a test compares
// them when the package is installed.
package viewer
