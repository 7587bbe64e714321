// Package wire plays recorded exchanges over the network, through a proxy: Send
// stands for the client and sends the recorded request, byte by byte; a Server stands
// for the auth server and gives the recorded answers.
package wire
